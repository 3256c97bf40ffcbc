"""Checkpoints: what they say of themselves, how they are written, found, thinned, averaged, and the run's lock."""
