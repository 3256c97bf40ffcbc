"""Errors that a user can cause, each with the same four parts."""

from __future__ import annotations


class SeqpairError(Exception):
    """A fault that the user can mend.

    Args:
        what: What was wrong, as one clause without a final stop.
        seen: The value that was seen.
        allowed: The values that are allowed.
        fix: What to do next.
    """

    exit_code = 2

    def __init__(self, what: str, *, seen: object = None, allowed: object = None, fix: str | None = None) -> None:
        self.what, self.seen, self.allowed, self.fix = what, seen, allowed, fix
        parts = [what]
        if seen is not None:
            parts.append(f"seen: {seen}")
        if allowed is not None:
            parts.append(f"allowed: {allowed}")
        if fix is not None:
            parts.append(f"next: {fix}")
        super().__init__("\n  ".join(parts))


def install_extra(*extras: str) -> str:
    """Return how to install optional packages: from a checkout, or from a release."""
    names = ",".join(extras)
    return f'`pip install ".[{names}]"` in a checkout, or `pip install "seqpair[{names}]"` for a release'


class RecipeError(SeqpairError):
    """A recipe, a preset, a `--set` or a plan that cannot be used."""


class DataError(SeqpairError):
    """A source that is missing, empty or unreadable."""


class StoreError(SeqpairError):
    """A store that is missing, changed, damaged or made for another tokenizer."""


class CheckpointError(SeqpairError):
    """A checkpoint that is missing, damaged or belongs to another plan."""


class DiskFullError(SeqpairError):
    """The disk cannot hold what has to be written; what was there before is untouched."""

    exit_code = 5


class RunLockedError(SeqpairError):
    """Another process is using the run directory."""

    exit_code = 4


class TrainingError(SeqpairError):
    """Training cannot go on: a loss that is not finite, a ledger that does not match."""

    exit_code = 3


class NotFiniteError(TrainingError):
    """A loss or a gradient norm that is not a finite number."""


class ExportError(SeqpairError):
    """An export that would not compute what the trained model computes; nothing was written."""

    exit_code = 6


class PublishError(SeqpairError):
    """A release that cannot be published as it is, or a Hub that refuses it or does not answer."""


class HubFolderError(SeqpairError):
    """A Hugging Face folder that cannot be a starting point: what it computes cannot be expressed here, or differs."""


class EvaluationError(SeqpairError):
    """An evaluation that cannot be run on what was given."""


class VerificationError(SeqpairError):
    """Something of a study is not what its plans, stores and records say."""

    exit_code = 3
