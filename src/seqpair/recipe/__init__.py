"""The recipe layer."""
