"""How the cost of a transaction behaves as accounts, history, backlog and processes grow."""
