"""Generation: a causal model that keeps the keys and values of what it has read, and the choice of the next token."""
