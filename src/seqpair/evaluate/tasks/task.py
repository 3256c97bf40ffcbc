"""What every task is made of: a specification, the inputs it may use, and the outcome it returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from seqpair.data.prepared import Prepared
from seqpair.data.sources.python import HeldOutFunction
from seqpair.errors import EvaluationError
from seqpair.evaluate.loaded import LoadedModel
from seqpair.evaluate.results import ItemOutcome
from seqpair.evaluate.unigram import UnigramModel
from seqpair.recipe.objectives import Direction


class TaskSkippedError(EvaluationError):
    """A task that this study's data cannot give; reported with its reason, never as a number."""


@dataclass
class TaskInputs:
    """What a task may use; the same for all members.

    Attributes:
        prepared: The study's tokenizer and stores.
        seq_len: Tokens of a full sequence in the member's last phase, specials included.
        functions: The held-out functions of the study's `python` source; empty without one.
    """

    prepared: Prepared
    seq_len: int
    functions: Sequence[HeldOutFunction] = ()

    @cached_property
    def unigram(self) -> UnigramModel:
        """The unigram model of the training stores."""
        return UnigramModel.of(self.prepared.train, self.prepared.tokenizer)


@dataclass(frozen=True)
class TaskOutcome:
    """A member's outcome: the items, and what the result says beside them.

    Attributes:
        items: One outcome an item.
        settings: Everything that fixes the task.
        chance: What guessing gives, or `None`.
        baselines: The metric of simple models on the same items.
        figures: Other numbers.
        note: What a reader must know.
        value: The metric where it is not the mean of the items' values, such as a correlation.
        standard_error: Of such a value, or `None`.
    """

    items: list[ItemOutcome]
    settings: dict[str, Any]
    chance: float | None = None
    baselines: dict[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    note: str = ""
    value: float | None = None
    standard_error: float | None = None


@dataclass(frozen=True)
class TaskSpec:
    """A task: its name, its metric, who can do it, and the function that does it.

    Attributes:
        name, version, title: What it is; a change of items or scoring raises the version.
        metric, unit, higher_is_better: What the value is.
        directions: The attention directions whose models can do it.
        run: Model and inputs to outcome; raises `TaskSkippedError` where the data has no items.
    """

    name: str
    version: int
    title: str
    metric: str
    unit: str
    higher_is_better: bool
    directions: tuple[Direction, ...]
    run: Callable[[LoadedModel, TaskInputs], TaskOutcome]


BOTH: tuple[Direction, ...] = ("bidirectional", "causal")
