"""StableAdamW as written in the facts, one tensor at a time in numpy float64: the oracle of the fast one."""

from __future__ import annotations

import numpy as np


class PlainStableAdamW:
    """Steps a mapping of float64 arrays in place; `decay` gives each its weight decay."""

    def __init__(self, params, decay, peak_lr, betas, eps, clip_norm=None):
        self.params, self.decay, self.peak_lr = params, decay, peak_lr
        self.betas, self.eps, self.clip_norm = betas, eps, clip_norm
        self.m = {name: np.zeros_like(p) for name, p in params.items()}
        self.v = {name: np.zeros_like(p) for name, p in params.items()}
        self.t = 0

    def step(self, grads, lr):
        """Take one step at rate `lr`; return (gradient norm, clipped share, update rms)."""
        self.t += 1
        b1, b2 = (b * (1 - b ** (self.t - 1)) / (1 - b**self.t) for b in self.betas)
        norm = np.sqrt(sum(float((g * g).sum()) for g in grads.values()))
        if self.clip_norm is not None and norm > self.clip_norm:
            grads = {name: g * (self.clip_norm / norm) for name, g in grads.items()}
        clipped, squares, elements = 0, 0.0, 0
        for name, p in self.params.items():
            g = grads[name]
            self.m[name] = m = self.m[name] + (1 - b1) * (g - self.m[name])
            self.v[name] = v = b2 * self.v[name] + (1 - b2) * g**2
            rms = np.sqrt(np.mean(g**2 / np.maximum(v, self.eps**2)))
            lr_t = lr / max(1.0, rms)
            p[...] = p * (1 - (lr_t / self.peak_lr) * self.decay[name])
            update = lr_t * m / (np.sqrt(v) + self.eps)
            p[...] = p - update
            clipped += rms > 1
            squares += float((update**2).sum())
            elements += p.size
        return norm, clipped / len(self.params), np.sqrt(squares / elements)
