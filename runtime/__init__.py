"""The simulator: tile memory, engine, exchange execution, profile and reports."""
