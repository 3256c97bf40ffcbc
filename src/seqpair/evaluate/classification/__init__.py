"""The suite `classification`: fine-tuning on labelled sets, one head for both directions."""
