"""Fine-tuning any encoder or decoder on labelled sets, with one head for both directions."""
