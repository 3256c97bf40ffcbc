"""A trained model in use: ours or any Hugging Face model, found, opened, scored, embedded, continued, filled."""
