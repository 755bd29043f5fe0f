"""The cycle model against published measurements, one module per family of experiments (see ../validate.py)."""
