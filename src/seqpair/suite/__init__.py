"""The suite layer."""
