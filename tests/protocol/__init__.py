"""A model of the protocol by which money moves, searched for histories that break a guarantee."""
