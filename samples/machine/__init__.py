"""Programs written tile by tile with `ipucc.builder`; each checks its numbers against numpy and prints its cycles."""
