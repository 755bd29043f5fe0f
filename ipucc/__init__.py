"""ipucc: an open compiler for the Graphcore IPU, and a simulator that runs what it compiles."""

__version__ = "0.1.0"
