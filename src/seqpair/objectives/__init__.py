"""Objectives: which tokens are corrupted, which output predicts which token, and the loss.

Owns corruption, targets and the summed cross entropy. Must not know layers or optimisers. The facts
that an objective fixes are in `seqpair.recipe.objectives`; this layer carries them out.
"""
