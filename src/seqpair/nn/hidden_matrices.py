"""Which parameters are the layers' matrices, and how many lie in one."""

from __future__ import annotations

from fnmatch import fnmatchcase

HIDDEN_MATRICES: dict[str, int] = {
    "backbone.layers.*.attention.wqkv.weight": 3,
    "backbone.layers.*.attention.wo.weight": 1,
    "backbone.layers.*.mlp.wi.weight": 2,
    "backbone.layers.*.mlp.wo.weight": 1,
}
"""Name pattern -> how many maps of the hidden state lie one under the other in it: queries, keys and values; the two
halves of the gated MLP. The token table, which is also the output, and the head's dense layer are none of them."""


def maps_in(name: str) -> int:
    """Return how many maps lie in a parameter; 0 if it is no matrix of a layer."""
    return next((count for pattern, count in HIDDEN_MATRICES.items() if fnmatchcase(name, pattern)), 0)
