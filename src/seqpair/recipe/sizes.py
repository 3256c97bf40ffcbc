"""Numbers that recipes name: counts such as `300M`, and the shapes of the suite with their exact parameter counts.

Source: arXiv 2507.11412, table of model sizes, and its published configurations. `test`, `1m` and `4m` are ours.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from seqpair.errors import SeqpairError
from seqpair.text import parse_count


def _count(value: object) -> object:
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        raise ValueError("a whole number such as 4096, 1_000, 300M, 8.5B or 1e9 is expected")
    try:
        return parse_count(value)
    except SeqpairError as error:
        raise ValueError(f"{error.allowed} is expected") from error


Count = Annotated[int, BeforeValidator(_count)]
"""A whole number, zero or more; `4096`, `1_000`, `300M`, `8.5B` and `1e9` are all accepted."""


class Shape(BaseModel):
    """A model's shape; the vocabulary belongs to the tokenizer, not to the shape.

    Attributes:
        layers: Number of layers L. L - 1 is a multiple of `model.global_every`, so the first and last are global.
        width: Hidden width D.
        inner: Inner width F of the gated MLP.
        heads: Attention heads H; the head dimension is D / H.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: int = Field(ge=1)
    width: int = Field(ge=1)
    inner: int = Field(ge=1)
    heads: int = Field(ge=1)

    @model_validator(mode="after")
    def _heads_are_even(self) -> Shape:
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} does not give {self.heads} heads of an even dimension")
        return self

    @property
    def head_dim(self) -> int:
        """Return the width of one head."""
        return self.width // self.heads


SIZES: dict[str, Shape] = {
    "test": Shape(layers=4, width=32, inner=48, heads=2),
    "1m": Shape(layers=4, width=128, inner=192, heads=2),
    "4m": Shape(layers=4, width=256, inner=384, heads=4),
    "17m": Shape(layers=7, width=256, inner=384, heads=4),
    "32m": Shape(layers=10, width=384, inner=576, heads=6),
    "68m": Shape(layers=19, width=512, inner=768, heads=8),
    "150m": Shape(layers=22, width=768, inner=1152, heads=12),
    "400m": Shape(layers=28, width=1024, inner=2624, heads=16),
    "1b": Shape(layers=28, width=1792, inner=3840, heads=28),
}


class ParameterCount(BaseModel):
    """Exact parameter counts; the tied embedding table is counted once.

    Attributes:
        total: All parameters.
        embedding: The token table, V * D.
        non_embedding: All but the token table.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    total: int
    embedding: int
    non_embedding: int


def parameter_count(shape: Shape, vocab_size: int) -> ParameterCount:
    """Count the parameters of a model.

    total = V D + V + L (4 D^2 + 3 D F + 2 D) - D + D + D + D^2 + D: token table, output bias, layers
    (attention, gated MLP, two norms), less the first layer's absent attention norm, plus the embedding
    norm, the final norm, and the head's dense layer and norm.
    """
    width, inner = shape.width, shape.inner
    layer = 4 * width * width + 3 * width * inner + 2 * width
    embedding = vocab_size * width
    non_embedding = vocab_size + shape.layers * layer + 2 * width + width * width
    return ParameterCount(total=embedding + non_embedding, embedding=embedding, non_embedding=non_embedding)
