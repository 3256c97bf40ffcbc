"""Labelled sets as questions: the label is a word that the model finds likeliest, nothing is trained."""
