"""What the user may choose for contrastive fine-tuning, with its defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from seqpair.errors import EvaluationError

POOLINGS = ("default", "mean", "last", "cls")
PAIRS_PER_LIMIT = 20
"""How many training pairs a limited run keeps for each item of its limit."""


@dataclass(frozen=True)
class TuningOptions:
    """Choices of fine-tuning, the same for encoders and decoders.

    Attributes:
        pairs: A file of training pairs; empty takes `retrieval/pairs.jsonl` of the data folder.
        columns: Names of the columns of query, positive and, if there are any, negatives; empty finds them.
        learning_rates: The rates that are tried; the best on the held-out pairs is taken.
        epochs: Times over the pairs.
        batch_pairs: Pairs of a batch; the positives of the others are the negatives of each.
        mini_batch_pairs: Pairs that go through the model at once.
        train_tokens: Tokens that a text is cut to in training.
        train_pairs: Most pairs to train on.
        hard_negatives: Negatives to find for each pair with the model as it is, beside those in the batch.
        tuned_pooling: `mean`, `last` or `cls`; `default` is the mean for encoders and the last token for decoders.
    """

    pairs: str = ""
    columns: str = ""
    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    epochs: int = 1
    batch_pairs: int = 64
    mini_batch_pairs: int = 16
    train_tokens: int = 256
    train_pairs: int = 20_000
    hard_negatives: int = 0
    tuned_pooling: str = "default"

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """Read the choices that are these; others are left alone.

        Raises:
            EvaluationError: A value is not of its kind or range.
        """
        found: dict[str, Any] = {}
        for field in fields(cls):
            if field.name in settings:
                found[field.name] = _read(field.name, str(settings[field.name]), getattr(cls, field.name))
        options = cls(**found)
        if options.tuned_pooling not in POOLINGS:
            raise EvaluationError(
                "there is no pooling of this name for fine-tuning",
                seen=repr(options.tuned_pooling),
                allowed=", ".join(POOLINGS),
            )
        return options

    def limited(self, limit: int | None) -> Self:
        """Return the options with no more pairs than a limit of items allows."""
        if limit is None:
            return self
        return type(self)(**asdict(self) | {"train_pairs": min(self.train_pairs, PAIRS_PER_LIMIT * limit)})


def _read(name: str, text: str, default: Any) -> Any:
    if isinstance(default, str):
        return text
    kind = "a rate above 0, or several with commas" if isinstance(default, tuple) else "a whole number"
    try:
        value = tuple(float(part) for part in text.split(",")) if isinstance(default, tuple) else int(text)
    except ValueError as error:
        raise EvaluationError(f"the setting {name} cannot be read", seen=text, allowed=kind) from error
    least = 0 if name == "hard_negatives" else 1
    if isinstance(value, tuple) and not all(0 < rate < 1 for rate in value):
        raise EvaluationError(f"the setting {name} is out of range", seen=text, allowed="above 0, below 1")
    if isinstance(value, int) and value < least:
        raise EvaluationError(f"the setting {name} is out of range", seen=value, allowed=f"at least {least}")
    return value


SETTINGS = tuple(field.name for field in fields(TuningOptions))
"""The names of all choices."""
