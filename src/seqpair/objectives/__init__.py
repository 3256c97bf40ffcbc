"""The objectives layer."""
