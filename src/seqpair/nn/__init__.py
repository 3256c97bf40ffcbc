"""The nn layer."""
