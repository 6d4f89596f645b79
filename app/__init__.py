"""Sub-Balance: a Redis-first sub-balance ledger that never loses an answer."""
