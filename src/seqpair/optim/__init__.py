"""The optimisers: which parameters decay, StableAdamW, and Muon for the layers' matrices."""
