"""Evaluation: two protocols, a few tasks, and results that keep every item's outcome. Importing this costs nothing."""
