"""Machine descriptions: `Target` and the machine files, every figure with its source."""
