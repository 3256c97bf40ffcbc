"""The evaluate layer."""
