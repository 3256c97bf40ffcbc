"""The order: which sequence is read at which step, as a pure function of the seed, and its record."""
