"""Passes, pipeline text, registry, remarks, timing and IR dumps."""
