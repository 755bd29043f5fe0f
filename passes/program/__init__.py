"""Passes that make and improve the program: lower, allocate, order transfers."""
