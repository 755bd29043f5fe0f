"""What one tile runs: one file per family, numbers (`compute`) beside time (`cycles`)."""
