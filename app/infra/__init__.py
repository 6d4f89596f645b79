"""Input and output without domain: Redis, PostgreSQL, scripts, queries, embedded servers."""
