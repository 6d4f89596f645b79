"""The dashboard: what the ledger does now, for people to look at."""
