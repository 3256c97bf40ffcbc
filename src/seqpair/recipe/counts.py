"""`Count`: a whole number that a recipe may write as `300M`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

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
