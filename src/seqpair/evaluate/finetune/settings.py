"""The settings of a fine-tuning run, and the grids of them.

Source: the sweep of the GLUE protocol of ModernBERT (Warner et al. 2024, arXiv 2412.13663), as in arXiv 2507.11412.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from seqpair.errors import EvaluationError

Pooling = Literal["cls", "mean", "last", "default"]
HeadKind = Literal["mlp", "linear"]
HeadStart = Literal["fresh", "pretrained"]

POOLINGS: tuple[Pooling, ...] = ("cls", "mean", "last", "default")
HEADS: tuple[HeadKind, ...] = ("mlp", "linear")
HEAD_STARTS: tuple[HeadStart, ...] = ("fresh", "pretrained")
PRECISIONS = ("fp32", "bf16")
GRIDS = ("small", "published", "final")
DEFAULT_BATCH_ROWS = 16

_RATES = (1e-5, 3e-5, 5e-5, 8e-5)
_DECAYS = (1e-6, 5e-6, 8e-6, 1e-5)
_FEW_EPOCHS = ("sst2", "mnli", "rte")
_BATCH_ROWS = {"mnli": 64, "cola": 32, "mrpc": 32, "stsb": 32}
_FINAL: dict[str, tuple[float, float, int]] = {
    "cola": (8e-5, 1e-6, 5),
    "mnli": (5e-5, 5e-6, 1),
    "mrpc": (5e-5, 5e-6, 10),
    "qnli": (8e-5, 5e-6, 2),
    "qqp": (5e-5, 5e-6, 10),
    "rte": (5e-5, 1e-5, 3),
    "sst2": (8e-5, 1e-5, 2),
    "stsb": (8e-5, 5e-6, 10),
}
_SMALL_RATES = (1e-4, 3e-4, 1e-3)
_SMALL_EPOCHS = 5


_ABOVE_ZERO = ("a number above 0", lambda value: 0 < value < math.inf)
_COUNT = ("a whole number, 1 or more", lambda value: value >= 1)
_WHOLE = ("epochs", "batch_rows", "max_tokens", "checks_per_epoch", "patience_checks")
_RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "learning_rate": _ABOVE_ZERO,
    "clip_norm": _ABOVE_ZERO,
    "weight_decay": ("a number, 0 or more", lambda value: 0 <= value < math.inf),
    "warmup_frac": ("0 to 1", lambda value: 0 <= value <= 1),
    "dropout": ("0 or more, below 1", lambda value: 0 <= value < 1),
    **dict.fromkeys(_WHOLE, _COUNT),
}


@dataclass(frozen=True)
class TuneSetting:
    """One way to fine-tune.

    Attributes:
        learning_rate: The peak.
        weight_decay: Share of a weight that a step at the peak rate takes away, whatever the rate is.
        epochs: Passes over the training rows, unless stopped early.
        batch_rows: Rows of a step.
        warmup_frac: Share of the steps in which the rate rises from zero; it then falls linearly to zero.
        pooling: What stands for a row: `cls`, `mean` (all its tokens), `last`; `default` is `cls` for encoders and
            `last` for decoders.
        head: `mlp` (dense, GELU, norm, dropout, linear) or `linear` (dropout, linear).
        head_start: What the dense layer and the norm of an `mlp` head start from: `fresh`, or `pretrained`: those of
            the model's own language-model head.
        dropout: In the head.
        max_tokens: Longest row, specials included; longer ones are cut and counted.
        checks_per_epoch: How often the dev rows are looked at.
        patience_checks: Looks without a better dev score after which a run stops.
        clip_norm: Largest norm of a gradient.
        precision: `fp32`, or `bf16` for bfloat16 where autocast allows.
    """

    learning_rate: float
    weight_decay: float = 1e-5
    epochs: int = _SMALL_EPOCHS
    batch_rows: int = DEFAULT_BATCH_ROWS
    warmup_frac: float = 0.1
    pooling: Pooling = "default"
    head: HeadKind = "mlp"
    head_start: HeadStart = "fresh"
    dropout: float = 0.1
    max_tokens: int = 256
    checks_per_epoch: int = 1
    patience_checks: int = 3
    clip_norm: float = 1.0
    precision: str = "fp32"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            EvaluationError: One is not allowed.
        """
        for name, allowed in (
            ("pooling", POOLINGS),
            ("head", HEADS),
            ("head_start", HEAD_STARTS),
            ("precision", PRECISIONS),
        ):
            if getattr(self, name) not in allowed:
                raise EvaluationError(
                    f"there is no such {name}", seen=getattr(self, name), allowed=", ".join(map(str, allowed))
                )
        for name, (says, is_allowed) in _RANGES.items():
            value = getattr(self, name)
            kinds = (int,) if name in _WHOLE else (int, float)
            # True is an int in Python, and a comparison with NaN is false: both must not pass as numbers.
            if isinstance(value, bool) or not isinstance(value, kinds) or not is_allowed(value):
                raise EvaluationError(f"{name} of a fine-tuning run", seen=value, allowed=says)

    def as_json(self) -> dict[str, Any]:
        """Return the values as JSON; a usual `head_start` is left out, so that earlier jobs keep their digests."""
        found = asdict(self)
        if self.head_start == "fresh":
            del found["head_start"]
        return found

    @property
    def label(self) -> str:
        """What differs within a grid, in a few characters."""
        return f"lr {self.learning_rate:g}, wd {self.weight_decay:g}, epochs {self.epochs}"


def grid_settings(grid: str, task: str, base: TuneSetting | None = None) -> list[TuneSetting]:
    """Return the settings of a grid for a task.

    Args:
        grid: `published`: 48 settings, as ModernBERT swept; `final`: the published winner of a GLUE task, else
            5e-5, 5e-6 and 3 epochs; `small`: three rates up to 1e-3, which models of a few million parameters need.
        task: The task's name; GLUE's own names have published values, others take those of most tasks.
        base: What the settings have in common, such as the pooling.

    Raises:
        EvaluationError: There is no such grid.
    """
    base = base or TuneSetting(_SMALL_RATES[0])
    task = task.removeprefix("glue_")
    batch_rows = _BATCH_ROWS.get(task, DEFAULT_BATCH_ROWS)
    if grid == "small":
        return [replace(base, learning_rate=rate, weight_decay=1e-5, epochs=_SMALL_EPOCHS) for rate in _SMALL_RATES]
    if grid == "final":
        rate, decay, epochs = _FINAL.get(task, (5e-5, 5e-6, 3))
        return [replace(base, learning_rate=rate, weight_decay=decay, epochs=epochs, batch_rows=batch_rows)]
    if grid == "published":
        return [
            replace(base, learning_rate=rate, weight_decay=decay, epochs=epochs, batch_rows=batch_rows)
            for epochs in ((1, 2, 3) if task in _FEW_EPOCHS else (2, 5, 10))
            for rate in _RATES
            for decay in _DECAYS
        ]
    raise EvaluationError("there is no grid of this name", seen=grid, allowed=", ".join(GRIDS))


def given_settings(
    rates: Sequence[float], decays: Sequence[float], epochs: Sequence[int], base: TuneSetting
) -> list[TuneSetting]:
    """Return the settings of a grid that a user wrote: every rate with every decay and number of epochs."""
    return [
        replace(base, learning_rate=rate, weight_decay=decay, epochs=passes)
        for passes in epochs
        for rate in rates
        for decay in decays
    ]
