"""Open-loop load on the service over HTTP, and the specification's TPS tests on top of it."""
