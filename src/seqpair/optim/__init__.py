"""The optim layer."""
