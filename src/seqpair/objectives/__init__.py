"""Objectives: which tokens are corrupted, which output predicts which token, and the loss.

The facts that an objective fixes are in `seqpair.recipe.objectives`; this layer carries them out.
"""
