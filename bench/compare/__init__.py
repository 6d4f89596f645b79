"""This service beside its rivals: the same load, the same machine, the same run, in turns."""
