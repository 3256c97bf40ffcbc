"""The tokenizer of a study, and what can be measured about it."""
