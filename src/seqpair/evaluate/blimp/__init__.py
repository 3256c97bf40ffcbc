"""BLiMP: grammar by which sentence of a minimal pair is likelier."""
