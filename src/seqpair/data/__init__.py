"""The data: where text comes from, its tokens on disk, and the order in which training reads them."""

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
"""Positions, rows, lengths and offsets: everything that counts, int64."""
