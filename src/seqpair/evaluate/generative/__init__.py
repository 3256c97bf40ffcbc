"""The generative columns of the published table, scored or generated on local files, and the lm-eval adapter."""
