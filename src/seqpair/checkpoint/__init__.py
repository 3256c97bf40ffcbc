"""The checkpoint layer."""
