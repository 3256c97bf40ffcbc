"""One Muon step of one matrix as the papers write it, in numpy float64: the oracle of the fast one."""

from __future__ import annotations

import numpy as np

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalised(matrix, steps=5):
    """Return five quintic Newton-Schulz steps on the matrix over its Frobenius norm."""
    a, b, c = COEFFICIENTS
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / max(np.linalg.norm(x), 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class PlainMuon:
    """Steps one float64 matrix in place."""

    def __init__(self, matrix, peak_lr, momentum, decay):
        self.matrix, self.peak_lr, self.momentum, self.decay = matrix, peak_lr, momentum, decay
        self.m = np.zeros_like(matrix)

    def step(self, grad, frac):
        """Take one step at a fraction of the peak rate; return what was taken from the matrix."""
        mu = self.momentum
        self.m = mu * self.m + (1 - mu) * grad
        look_ahead = (1 - mu) * grad + mu * self.m
        rate = self.peak_lr * frac * 0.2 * np.sqrt(max(self.matrix.shape))
        taken = rate * orthogonalised(look_ahead)
        self.matrix[...] = self.matrix * (1 - frac * self.decay) - taken
        return taken
