"""Failures on purpose, on private servers: what broke, how long it took, whether money survived."""
