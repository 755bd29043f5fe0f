"""Compiler passes: one pass per file."""
