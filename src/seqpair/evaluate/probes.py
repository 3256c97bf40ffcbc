"""What a frozen model's states tell about labels: linear probes on the pooled states of every layer.

Nothing of the model is trained, so a probe takes seconds, has no learning rate and no seed, and is the same for an
encoder and a decoder: the mean of each layer's states over the text's own tokens, standardised, then logistic
regression for classes and ridge regression for numbers. A pair of texts is |u - v| and u * v, as in SentEval. A tenth
of the training rows chooses the layer and the strength of the penalty; then every layer is fitted on all of them.

Source: Alain and Bengio 2016, arXiv 1610.01644 (probes of each layer); Conneau and Kiela 2018, arXiv 1803.05449
(SentEval, pairs). Differs: the penalty is one of two values, not of a grid.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqpair.errors import EvaluationError, needs_extra
from seqpair.evaluate.classification.sets import SETS, NamedSet
from seqpair.evaluate.classification.tasks import UNITS
from seqpair.evaluate.finetune.metrics import all_metrics, constant_guess, is_mean_of_rows
from seqpair.evaluate.finetune.runs import bootstrap_error, measured_items
from seqpair.evaluate.finetune.sets import Example, LabelledSet, shuffled, split_rows
from seqpair.evaluate.results import standard_error
from seqpair.evaluate.task import BOTH, SuiteTask, TaskContext, TaskOutcome
from seqpair.models.embed import embed_layers
from seqpair.models.text_model import TextModel

FEWEST_PROBED = 20
POOLING = "mean-text"
CHOOSING_SHARE = 0.1
PENALTIES = (1.0, 100.0)
"""The two strengths that are tried: of ridge regression, and the inverse of C of logistic regression."""
MOST_STEPS = 500
_KINDS = ("classes", "number")
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Probe:
    """What the probes of a model's layers gave on one set.

    Attributes:
        layer: The layer that the training rows chose; 0 is the embedding.
        by_layer: The metric of each layer's probe on the reported rows, (L + 1,).
        guesses: What the chosen layer's probe says of each reported row: a class's index, or a number.
        metric: The metric.
        chance: What the best constant answer gives.
        truncated: How many texts were longer than the model reads, and cut.
        unfinished: How many fits ended after `MOST_STEPS` steps without converging.
    """

    layer: int
    by_layer: tuple[float, ...]
    guesses: list[Any]
    metric: str
    chance: float
    truncated: int
    unfinished: int

    @property
    def value(self) -> float:
        """The metric of the chosen layer's probe."""
        return self.by_layer[self.layer]


def given_set(
    texts: Sequence[str], labels: Sequence[object], pairs: Sequence[str] | None, name: str = "given"
) -> LabelledSet:
    """Return rows that a caller has in memory as a set; a fifth of them is kept apart and reported.

    Args:
        texts: The texts, (n,).
        labels: A class of each, as a text or a whole number, or a number with a fraction part.
        pairs: A second text of each, or None.
        name: The set's name.

    Raises:
        EvaluationError: The lengths differ, there are too few rows, or a label is missing or of another kind.
    """
    if not len(texts) == len(labels) == len(pairs or texts) or len(texts) < FEWEST_PROBED:
        raise EvaluationError(
            "a probe needs a label for every text",
            seen=f"{len(texts)} texts, {len(labels)} labels",
            allowed=f"as many of each, {FEWEST_PROBED} or more",
        )
    is_number = any(isinstance(label, float) for label in labels)
    for number, label in enumerate(labels, 1):
        right = isinstance(label, int | float if is_number else int | str) and not isinstance(label, bool)
        if not right or label == "" or not math.isfinite(label if isinstance(label, float) else 0):
            raise EvaluationError(
                f"label {number} is of another kind, or missing",
                seen=f"{label!r}"[:80],
                allowed="numbers" if is_number else "texts or whole numbers",
                fix="leave its row out",
            )
    names = [] if is_number else sorted({str(label) for label in labels})
    found = [float(str(label)) if is_number else names.index(str(label)) for label in labels]
    seconds = [None] * len(texts) if pairs is None else pairs
    rows = [Example(str(n), *row) for n, row in enumerate(zip(texts, found, seconds, strict=True))]
    train, dev, test = split_rows(rows, (0.7, 0.1, 0.2))
    return LabelledSet(name, "number" if is_number else "classes", tuple(names), train + dev, dev, test)


def probe_set(
    model: TextModel, labelled: LabelledSet, watch: Callable[[float, float], None] = lambda _done, _total: None
) -> Probe:
    """Probe every layer of a model on a labelled set.

    Args:
        model: The model.
        labelled: Classes or numbers; its dev rows are only used where it reports them.
        watch: Called with how many texts are read, and of how many.

    Raises:
        EvaluationError: The set has other labels than classes and numbers or fewer than two rows, or scikit-learn is
            not installed.
    """
    if labelled.kind not in _KINDS:
        raise EvaluationError(
            f"the labels of {labelled.name} cannot be probed", seen=labelled.kind, allowed=", ".join(_KINDS)
        )
    train, reported = labelled.train, labelled.reported
    if len(train) < 2:
        raise EvaluationError(
            "a probe needs rows to learn from and one to choose by", seen=f"{len(train)} rows", allowed="2 or more"
        )
    features, truncated = _features(model, [*train, *reported], watch)
    labels = np.array([row.label for row in train])
    fitted, choosing = _split(train)
    unfinished, chosen = 0, []
    for own in features:
        tried = []
        for penalty in PENALTIES:
            guesses, ended = _fit(labelled.kind, own[fitted], labels[fitted], own[choosing], penalty)
            unfinished += not ended
            tried.append((all_metrics(labelled, labels[choosing], guesses)[labelled.metric], penalty))
        # Of equal ones the stronger penalty, which says less of the training rows.
        chosen.append(max(tried))
    layer = int(np.argmax([score for score, _ in chosen]))
    said, by_layer = [], []
    gold = [row.label for row in reported]
    for own, (_, penalty) in zip(features, chosen, strict=True):
        guesses, ended = _fit(labelled.kind, own[: len(train)], labels, own[len(train) :], penalty)
        unfinished += not ended
        said.append(guesses)
        by_layer.append(float(all_metrics(labelled, gold, guesses)[labelled.metric]))
    chance = constant_guess(labelled, gold)
    return Probe(layer, tuple(by_layer), said[layer], labelled.metric, chance, truncated, unfinished)


def _split(rows: Sequence[Example]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the places of the rows to fit on and of those to choose by, the same for all models."""
    order = shuffled(rows)
    names = {row.id for row in order[min(round((1 - CHOOSING_SHARE) * len(order)), len(order) - 1) :]}
    is_choosing = np.array([row.id in names for row in rows])
    return np.flatnonzero(~is_choosing), np.flatnonzero(is_choosing)


def _features(
    model: TextModel, rows: Sequence[Example], watch: Callable[[float, float], None]
) -> tuple[Sequence[Vectors], int]:
    """Return the features of each layer, (n, F) or (n, 2 F) of pairs, and how many texts were cut."""
    total = len(rows) * (1 if rows[0].pair is None else 2)
    first = embed_layers(model, [row.text for row in rows], POOLING, lambda done: watch(done, total))
    if rows[0].pair is None:
        return first.vectors, first.truncated
    second = embed_layers(model, [row.pair or "" for row in rows], POOLING, lambda done: watch(len(rows) + done, total))
    pairs = zip(first.vectors, second.vectors, strict=True)
    return [np.hstack([np.abs(u - v), u * v]) for u, v in pairs], first.truncated + second.truncated


def _fit(kind: str, known: Vectors, labels: NDArray[Any], asked: Vectors, penalty: float) -> tuple[list[Any], bool]:
    """Return what a probe fitted on some rows says of others, and whether the fit converged."""
    with needs_extra("a probe", "eval", EvaluationError):
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression, Ridge
        from sklearn.preprocessing import StandardScaler
    if kind == "classes" and len(np.unique(labels)) == 1:
        return [int(labels[0])] * len(asked), True
    scaler = StandardScaler().fit(known.astype(np.float64))
    known, asked = scaler.transform(known.astype(np.float64)), scaler.transform(asked.astype(np.float64))
    if kind == "number":
        return [float(value) for value in Ridge(alpha=penalty).fit(known, labels).predict(asked)], True
    fitted = LogisticRegression(C=1 / penalty, max_iter=MOST_STEPS, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is counted instead, and stands in the result
        fitted.fit(known, labels)
    return [int(label) for label in fitted.predict(asked)], int(fitted.n_iter_.max()) < MOST_STEPS


def measure_probe(local: NamedSet, model: TextModel, context: TaskContext) -> TaskOutcome:
    """Probe a model on a set of the suite `classification`.

    Raises:
        EvaluationError: The set cannot be read, or scikit-learn is not installed.
    """
    labelled = replace(local.read(context.data), max_tokens=local.max_tokens).limited(context.limit)
    return probed_outcome(labelled, probe_set(model, labelled, context.watch))


def probed_outcome(labelled: LabelledSet, probe: Probe) -> TaskOutcome:
    """Return the probes of a set as a task's outcome: the chosen layer's value, with those of all layers as figures."""
    items = measured_items(labelled, [probe.guesses])
    gold = [row.label for row in labelled.reported]
    by_rows = is_mean_of_rows(labelled)
    settings: dict[str, Any] = {
        "pooling": POOLING,
        "penalties": list(PENALTIES),
        "layer": probe.layer,
        "training_rows": len(labelled.train),
        "data_digest": labelled.digest,
    }
    if labelled.kind == "classes":
        settings["labels"] = list(labelled.labels)
    notes = [labelled.note] if labelled.note else []
    notes += [f"{probe.unfinished} fits did not converge."] if probe.unfinished else []
    return TaskOutcome(
        items,
        settings,
        chance=probe.chance,
        figures={f"layer_{layer}": value for layer, value in enumerate(probe.by_layer)},
        note=" ".join(notes),
        value=None if by_rows else probe.value,
        standard_error=standard_error(items) if by_rows else bootstrap_error(labelled, gold, [probe.guesses]),
        truncated=probe.truncated,
    )


TASKS = tuple(
    SuiteTask(
        name=f"probe_{local.name}",
        version=1,
        title=f"{local.title}, frozen probe",
        suite="probes",
        metric=local.metric,
        unit=UNITS.get(local.metric, "0 to 1"),
        higher_is_better=True,
        directions=BOTH,
        inputs=local.inputs,
        run=partial(measure_probe, local),
        needs_head=False,
        uses=(),
    )
    for local in SETS
    if local.metric in ("accuracy", "spearman")
)
