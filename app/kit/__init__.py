"""Pure building blocks without I/O and without knowledge of the ledger."""
