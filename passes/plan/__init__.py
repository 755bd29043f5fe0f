"""Passes over the tile graph: schedule, plan, place."""
