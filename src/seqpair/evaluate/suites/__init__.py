"""Suites: groups of tasks on data from outside, run on any model, with results cached by content."""
