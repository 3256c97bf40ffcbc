"""The tasks, one file each: which items, what is asked of the model, what an outcome is."""
