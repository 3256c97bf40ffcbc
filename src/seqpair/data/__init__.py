"""The data layer: sources, tokenizer, stores, and the order in which sequences are read."""
