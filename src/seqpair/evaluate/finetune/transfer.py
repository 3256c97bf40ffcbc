"""Transfer: rows of another set, answered by a head that never saw them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from seqpair.errors import EvaluationError
from seqpair.evaluate.finetune.sets import LabelledSet


@dataclass(frozen=True)
class Transfer:
    """A set to be answered by another set's head.

    Attributes:
        head: The name of the set whose head answers.
        labelled: The rows; its name says both sets, and its labels hold every class that may be answered.
        classes: For each class of the head, the index of what it means here; empty for other kinds.
    """

    head: str
    labelled: LabelledSet
    classes: tuple[int, ...] = ()


def transfer_of(learned: LabelledSet, other: LabelledSet, meanings: Mapping[str, str] | None = None) -> Transfer:
    """Return how a set is answered by the head of another.

    A class of the head that the other set lacks stays an answer that is never right there.

    Args:
        learned: The set that the head learns.
        other: The set to answer; its reported rows count.
        meanings: What a class of the head is called in the other set, where the names differ.

    Raises:
        EvaluationError: The kinds differ, or a class of the other set can never be answered.
    """
    name = f"{learned.name}_to_{other.name}"
    if other.kind != learned.kind:
        raise EvaluationError(
            "a head answers rows of its own kind only", seen=f"{other.name}: {other.kind}", allowed=learned.kind
        )
    if learned.kind not in ("classes", "tags"):
        return Transfer(learned.name, replace(other, name=name))
    meanings = meanings or {}
    strange = [label for label in meanings if label not in learned.labels]
    if strange:
        raise EvaluationError(
            f"{learned.name} has no such label", seen=", ".join(strange), allowed=", ".join(learned.labels)
        )
    meant = [meanings.get(label, label) for label in learned.labels]
    missing = [label for label in other.labels if label not in meant]
    if missing:
        raise EvaluationError(
            f"a label of {other.name} can never be answered by the head of {learned.name}",
            seen=", ".join(missing),
            allowed=", ".join(dict.fromkeys(meant)),
            fix="say which label it is: --map LABEL=LABEL_OF_THE_OTHER_SET",
        )
    labels = tuple(dict.fromkeys([*other.labels, *meant]))
    return Transfer(learned.name, replace(other, name=name, labels=labels), tuple(labels.index(one) for one in meant))


def translated(transfer: Transfer, guess: object) -> object:
    """Return a guess of the head in the classes of the other set."""
    if not transfer.classes:
        return guess
    if isinstance(guess, tuple):
        return tuple(transfer.classes[tag] for tag in guess)
    return transfer.classes[int(guess)]  # type: ignore[call-overload]
