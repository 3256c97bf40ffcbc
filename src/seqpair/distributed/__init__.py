"""The distributed layer."""
