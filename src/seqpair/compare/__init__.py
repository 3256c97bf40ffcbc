"""Comparing trained models: statistics over items and seeds, and the questions asked of a study."""
