"""Labelled sets: rows with a class, a number, one tag per word, or an answer in a text.

Everything that fine-tunes or is prompted with labelled rows shares these values. A `Transfer` is a second set whose
rows are answered by a head that never saw them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from seqpair.errors import EvaluationError
from seqpair.files import hash64, sha256_json

Kind = Literal["classes", "number", "tags", "span", "text"]
KINDS: tuple[Kind, ...] = ("classes", "number", "tags", "span", "text")
OUTSIDE = "O"
LOG_PROB = "log_prob_of_a_target_token"
METRICS: dict[Kind, tuple[str, ...]] = {
    "classes": ("accuracy", "f1", "f1_macro", "matthews"),
    "number": ("spearman", "pearson"),
    "tags": ("f1_entities", "accuracy_words"),
    "span": ("f1", "exact_match"),
    "text": ("bleu", "chrf", "exact_match"),
}
"""The metrics that can be reported as the value; the first is what a kind has by default."""


@dataclass(frozen=True)
class Example:
    """One row.

    Attributes:
        id: Its name in the set.
        text: The text, the question of a `span` row, what stands before a `text` row's target; for `tags` the words
            joined by spaces.
        label: A class's index, a number, a tag's index a word, a tuple of right answers, or a target text.
        pair: The second text of a pair, or the text that holds the answer.
        words: The words of a `tags` row.
        answer_start: Where the first answer begins in `pair`, in characters; -1 where unknown.
        turns: In place of `text`, the turns of a chat before the target: role and content.
        cluster: What it shares with other rows, such as an article or a premise; or empty.
    """

    id: str
    text: str
    label: Any
    pair: str | None = None
    words: tuple[str, ...] = ()
    answer_start: int = -1
    turns: tuple[tuple[str, str], ...] = ()
    cluster: str = ""


@dataclass(frozen=True)
class LabelledSet:
    """A set with what is needed to tune on it.

    Attributes:
        name: The task's name.
        kind: What a label is.
        labels: Names of the classes or tags, in the order of their indices.
        train, dev, test: Rows to learn from, to choose by, and to report; without `test` the dev rows are reported,
            as the published GLUE figures are.
        metric: What is reported, and chooses the setting on the dev rows (for `text` the likelihood chooses).
        note: What a reader must know.
        max_tokens: The longest row that suits the set, specials included.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...] = ()
    metric: str = ""
    note: str = ""
    max_tokens: int = 256

    def __post_init__(self) -> None:
        """Fill the default metric and check the parts.

        Raises:
            EvaluationError: A part is empty, the metric is not one of the kind's, or there is but one class.
        """
        object.__setattr__(self, "metric", self.metric or METRICS[self.kind][0])
        if self.metric not in METRICS[self.kind]:
            raise EvaluationError(
                f"the set {self.name} has no such metric", seen=self.metric, allowed=", ".join(METRICS[self.kind])
            )
        for part in ("train", "dev"):
            if not getattr(self, part):
                raise EvaluationError(f"the set {self.name} has no {part} rows", allowed="at least 1", fix="add rows")
        if self.kind == "classes" and len(self.labels) < 2:
            raise EvaluationError(
                f"the set {self.name} has one class only", seen=", ".join(self.labels), fix="add rows of another class"
            )

    @property
    def reported(self) -> tuple[Example, ...]:
        """The rows that the result is about."""
        return self.test or self.dev

    @property
    def chooses(self) -> str:
        """The dev metric that stops a run and chooses the setting."""
        return LOG_PROB if self.kind == "text" else self.metric

    @property
    def outputs(self) -> int:
        """How many values the head gives a row or token."""
        return {"number": 1, "span": 2}.get(self.kind, len(self.labels))

    @property
    def has_chats(self) -> bool:
        """Whether the rows are chats rather than texts."""
        return bool(self.train[0].turns)

    @property
    def label_counts(self) -> dict[str, int]:
        """How often each class or tag stands in the training rows; empty for other kinds."""
        if self.kind not in ("classes", "tags"):
            return {}
        counts = Counter(tag for row in self.train for tag in (row.label if self.kind == "tags" else (row.label,)))
        return {label: counts[place] for place, label in enumerate(self.labels)}

    @property
    def digest(self) -> str:
        """The digest of everything that a run depends on."""
        parts = (self.train, self.dev, self.test)
        rows = [[[row.id, row.text, row.pair, row.label, row.turns] for row in part] for part in parts]
        return sha256_json([self.name, self.kind, list(self.labels), self.metric, rows])

    def limited(self, limit: int | None) -> LabelledSet:
        """Return the set with at most `limit` rows in each part, drawn by their ids."""
        if limit is None:
            return self
        parts = {part: tuple(shuffled(getattr(self, part))[:limit]) for part in ("train", "dev", "test")}
        return replace(self, **parts)


def shuffled(rows: Sequence[Example]) -> list[Example]:
    """Return rows in an order that depends on their ids only."""
    return sorted(rows, key=lambda row: (hash64(f"order {row.id}"), row.id))


def split_rows(rows: Sequence[Example], shares: Sequence[float]) -> list[tuple[Example, ...]]:
    """Cut rows into parts that depend on the rows' ids only, not on a seed or their order.

    Args:
        rows: The rows.
        shares: The share of each part; the last part takes what is left.
    """
    order, parts, start = shuffled(rows), [], 0
    for index, share in enumerate(shares):
        stop = len(order) if index == len(shares) - 1 else start + round(share * len(order))
        parts.append(tuple(order[start:stop]))
        start = stop
    return parts


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
