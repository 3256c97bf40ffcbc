"""What every table of bad inputs has in common: a row says which words the one error must have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from seqpair.errors import SeqpairError

MOST_LINES = 12
"""An error is one message: what, seen, allowed, next; a recipe's may list a few faults."""


def refuses(action: Callable[[], Any], *words: str) -> SeqpairError:
    """Check that an action ends with one clear error that has these words; anything else fails the test.

    Returns:
        The error.
    """
    with pytest.raises(SeqpairError) as caught:
        action()
    message = str(caught.value)
    for word in words:
        assert word in message, f"{word!r} is not in: {message}"
    assert len(message.splitlines()) <= MOST_LINES
    assert "Traceback" not in message
    return caught.value
