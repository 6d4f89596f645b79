"""The command line. It stands on the client alone and knows nothing of the service's inside."""
