"""Stores: the tokens of a source on disk, memory-mapped, and the counts that a plan needs of them."""
