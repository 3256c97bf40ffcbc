"""Cleaning: which documents of the sources do not become tokens, and why."""
