"""What all HTTP shares: problems, health, the API document, the list of routers."""
