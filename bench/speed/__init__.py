"""How long hot functions take alone: `python -m pytest bench/speed --benchmark-enable`."""
