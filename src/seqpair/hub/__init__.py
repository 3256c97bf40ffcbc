"""Hugging Face formats: names, configurations, tokenizer files, and the proof that an export computes the same."""
