"""Background work: one process, many loops. What a loop does lives in its room."""
