"""The suite `own`: tasks on a study's own held-out text, which every member of the study answers on the same items.

Items are chosen by hashes of the stores' content, the task's name and its version. The tasks need no data from
outside, only the stores that the study was trained with.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqpair.counter import as_fraction_threshold, hash_words, key_words
from seqpair.errors import EvaluationError, install_extra
from seqpair.evaluate.finetune.sets import Example, LabelledSet
from seqpair.evaluate.probes import probe_set, probed_outcome
from seqpair.evaluate.results import SAMPLES_NAME, ItemOutcome, weighted_mean
from seqpair.evaluate.samples import make_samples
from seqpair.evaluate.study_text import HeldOutSequence, StudyText, held_out_sequences, held_out_windows
from seqpair.evaluate.task import BOTH, OWN_SUITE, SuiteTask, TaskContext, TaskOutcome, TaskSkippedError
from seqpair.files import hash64
from seqpair.models.score import (
    Request,
    likelihood_bounds,
    masked_predictions,
    score_continuations,
    token_log_probabilities,
)
from seqpair.models.text_model import TextModel

BYTES_BUDGET_TOKENS = 60_000
BOUND_DRAWS = 4
MASKED_BUDGET_TOKENS = 100_000
MASK_FRAC = 0.15
CONTEXT_TOKENS = 48
CONTINUATION_TOKENS = 12
CHOICES = 4
MOST_ITEMS = 200
PROBE_TOKENS = 16
PROBE_WINDOWS = 500
LEAST_PROBE_WINDOWS = 20
_NO_TEXT = "the study holds out no text"
_HOLD_OUT = "set held_out_frac of its sources above 0"


def measure_bits_per_byte(model: TextModel, context: TaskContext) -> TaskOutcome:
    """Measure how many bits a causal model needs for held-out text.

    An item is a held-out sequence. Its bits are -sum log2 P(token | [CLS] and the tokens before it) over its content
    tokens, divided by their UTF-8 bytes and weighted by these bytes. `[SEP]` is not text and does not count. The
    baseline is the unigram model of the same tokenizer on the same items.

    Raises:
        TaskSkippedError: The study holds out no text.
    """
    study = context.study_of(model)
    kept = _sized_sequences(study, context)
    context.watch(0, len(kept))
    found = token_log_probabilities(model, [sequence.content for sequence, _ in kept])
    context.watch(len(kept), len(kept))
    nats = [-float(values.sum(dtype="float64")) for values in found]
    return _bits_outcome(study, kept, nats, {"counts_sep": False})


def measure_bits_per_byte_bound(model: TextModel, context: TaskContext) -> TaskOutcome:
    """Measure how many bits a bidirectional model needs at most to generate held-out text by unmasking it.

    The items are those of `bits_per_byte`. A sequence's bits are the mean of four estimates of the bound that
    `likelihood_bounds` describes; the model is given the sequence's length, which a decoder is not.

    Raises:
        TaskSkippedError: The study holds out no text.
    """
    study = context.study_of(model)
    kept = _sized_sequences(study, context)
    context.watch(0, len(kept))
    contents, names = [sequence.content for sequence, _ in kept], [sequence.id for sequence, _ in kept]
    nats = likelihood_bounds(model, contents, names, BOUND_DRAWS)
    context.watch(len(kept), len(kept))
    outcome = _bits_outcome(study, kept, nats.mean(1).tolist(), {"draws": BOUND_DRAWS, "knows_length": True})
    # The draws of a text come from different numbers of masks, so their spread overstates the error of their mean.
    variance = float((nats.var(1, ddof=1) / BOUND_DRAWS).sum())
    outcome.figures["monte_carlo_error"] = math.sqrt(variance) / math.log(2) / sum(size for _, size in kept)
    return outcome


def _sized_sequences(study: StudyText, context: TaskContext) -> list[tuple[HeldOutSequence, int]]:
    """Return the held-out sequences whose bits are counted, each with its UTF-8 bytes."""
    token_bytes = study.prepared.tokenizer.token_bytes
    sequences = held_out_sequences(study.prepared.held_out, study.seq_len, BYTES_BUDGET_TOKENS, "bits_per_byte 1")
    text_bytes = [int(token_bytes[sequence.content].sum()) for sequence in sequences]
    kept = [(sequence, size) for sequence, size in zip(sequences, text_bytes, strict=True) if size]
    if not kept:
        raise TaskSkippedError(_NO_TEXT, fix=_HOLD_OUT)
    return context.limited(kept)


def _bits_outcome(
    study: StudyText, kept: Sequence[tuple[HeldOutSequence, int]], nats: Sequence[float], settings: dict[str, Any]
) -> TaskOutcome:
    """Return the outcome of sequences with the nats that a model needs for each."""
    items, baseline = [], []
    for (sequence, size), needed in zip(kept, nats, strict=True):
        bits = needed / math.log(2)
        simple = float(study.unigram.bits[sequence.content].sum())
        detail = {"source": sequence.source, "bytes": size, "tokens": len(sequence.content), "unigram": simple / size}
        # Weights of bytes make the mean over items a rate over all bytes, however the text was cut into items.
        items.append(ItemOutcome(id=sequence.id, value=bits / size, weight=size, detail=detail))
        baseline.append(ItemOutcome(id=sequence.id, value=simple / size, weight=size))
    unigram = weighted_mean(baseline)
    figures = {"below_unigram_frac": 1.0 - weighted_mean(items) / unigram}
    for source in sorted(study.prepared.held_out):
        own = [item for item in items if item.detail["source"] == source]
        if own:
            figures[f"bits_per_byte_{source}"] = weighted_mean(own)
    return TaskOutcome(
        items=items,
        settings={"seq_len": study.seq_len, "budget_tokens": BYTES_BUDGET_TOKENS} | settings,
        baselines={"unigram": unigram},
        figures=figures,
    )


def masked_places(sequence: HeldOutSequence, special_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return which tokens of a sequence are masked, ascending; special ids inside the text never are."""
    key = key_words("evaluate", "masked_accuracy", 1, sequence.id)
    words = hash_words(key, np.arange(len(sequence.content), dtype=np.int64))
    chosen = (words < as_fraction_threshold(MASK_FRAC)) & ~np.isin(sequence.content, special_ids)
    return np.flatnonzero(chosen)


def measure_masked_accuracy(model: TextModel, context: TaskContext) -> TaskOutcome:
    """Measure how many masked tokens of held-out text a bidirectional model finds.

    An item is a held-out sequence: 15 % of its tokens, chosen by a hash of the item and the place, are all replaced by
    `[MASK]`. Its value is the share that the model's likeliest token gets right, weighted by how many were masked. The
    baseline always predicts the most frequent token of the training stores.

    Raises:
        TaskSkippedError: The study holds out no text.
    """
    study = context.study_of(model)
    sequences = held_out_sequences(study.prepared.held_out, study.seq_len, MASKED_BUDGET_TOKENS, "masked_accuracy 1")
    places = [masked_places(sequence, study.prepared.tokenizer.special_ids) for sequence in sequences]
    kept = [(sequence, chosen) for sequence, chosen in zip(sequences, places, strict=True) if len(chosen)]
    if not kept:
        raise TaskSkippedError(_NO_TEXT, fix=_HOLD_OUT)
    kept = context.limited(kept)
    context.watch(0, len(kept))
    found = masked_predictions(model, [sequence.content for sequence, _ in kept], [chosen for _, chosen in kept])
    context.watch(len(kept), len(kept))
    items, baseline = [], []
    for (sequence, chosen), (tokens, _) in zip(kept, found, strict=True):
        answers = sequence.content[chosen]
        right = float((tokens[:, 0] == answers).mean())
        simple = float((answers == study.unigram.most_frequent).mean())
        detail = {"source": sequence.source, "masked": len(chosen), "unigram": simple}
        items.append(ItemOutcome(id=sequence.id, value=right, weight=len(chosen), detail=detail))
        baseline.append(ItemOutcome(id=sequence.id, value=simple, weight=len(chosen)))
    accuracy, unigram = weighted_mean(items), weighted_mean(baseline)
    return TaskOutcome(
        items=items,
        settings={"seq_len": study.seq_len, "budget_tokens": MASKED_BUDGET_TOKENS, "mask_frac": MASK_FRAC},
        baselines={"unigram": unigram},
        figures={"times_unigram": accuracy / unigram} if unigram > 0 else {},
    )


def choices_of(windows: list[HeldOutSequence], index: int) -> list[HeldOutSequence] | None:
    """Return a window and the next windows in order whose documents and continuations all differ.

    Returns:
        The window itself first, then the distractors; `None` if there are too few.
    """
    chosen = [windows[index]]
    rows = {windows[index].row}
    endings = {windows[index].content[CONTEXT_TOKENS:].tobytes()}
    for step in range(1, len(windows)):
        other = windows[(index + step) % len(windows)]
        ending = other.content[CONTEXT_TOKENS:].tobytes()
        if other.row not in rows and ending not in endings:
            rows.add(other.row)
            endings.add(ending)
            chosen.append(other)
            if len(chosen) == CHOICES:
                return chosen
    return None


def _most_items(context: TaskContext) -> int:
    given = str(context.settings.get("continuation_items", MOST_ITEMS))
    if not given.isdecimal() or int(given) == 0:
        raise EvaluationError(
            "continuation_items is not a number of items", seen=given, allowed="a whole number above 0"
        )
    return int(given)


def measure_continuation(model: TextModel, context: TaskContext) -> TaskOutcome:
    """Measure how often a model of either direction finds the true continuation among four.

    An item is a window of a held-out document: 48 tokens of context and the 12 that follow. The three other candidates
    are the continuations of windows of other documents of the same source, none equal to another. All four have the
    same number of tokens, so the plain sum of log-probabilities decides. Candidates that tie share the point.

    Raises:
        TaskSkippedError: The held-out documents are too few or too short.
        EvaluationError: The choice `continuation_items` is no number above 0.
    """
    size = CONTEXT_TOKENS + CONTINUATION_TOKENS
    prepared = context.study_of(model).prepared
    by_source = held_out_windows(prepared.held_out, size, "continuation 1")
    most_items = _most_items(context)
    quota = most_items // max(1, len(by_source))
    items: list[list[HeldOutSequence]] = []
    for windows in by_source.values():
        found = (choices_of(windows, index) for index in range(min(quota, len(windows))))
        items.extend(choices for choices in found if choices is not None)
    if not items:
        raise TaskSkippedError(
            "the held-out documents are too few or too short for the continuation task",
            allowed=f"at least {CHOICES} documents of {size} tokens in one source",
            fix="hold out more documents",
        )
    items = context.limited(items)
    requests: list[Request] = [
        (choices[0].content[:CONTEXT_TOKENS], choice.content[CONTEXT_TOKENS:])
        for choices in items
        for choice in choices
    ]
    context.watch(0, len(items))
    scored = score_continuations(model, requests, context.scoring)
    context.watch(len(items), len(items))
    scores = np.array([score.log_prob for score in scored]).reshape(len(items), CHOICES)
    ties = scores == scores.max(axis=1, keepdims=True)  # column 0 is the true continuation
    outcomes = [
        ItemOutcome(
            id=choices[0].id,
            value=float(ties[index, 0]) / float(ties[index].sum()),
            detail={
                "source": choices[0].source,
                "scores": [round(float(score), 4) for score in scores[index]],
                "gold_bytes": int(prepared.tokenizer.token_bytes[choices[0].content[CONTEXT_TOKENS:]].sum()),
            },
            cluster=choices[0].id.rpartition("@")[0],  # its document
        )
        for index, choices in enumerate(items)
    ]
    return TaskOutcome(
        items=outcomes,
        settings={
            "context_tokens": CONTEXT_TOKENS,
            "continuation_tokens": CONTINUATION_TOKENS,
            "choices": CHOICES,
            "most_items": most_items,
        },
        chance=1.0 / CHOICES,
    )


def measure_source_probe(model: TextModel, context: TaskContext) -> TaskOutcome:
    """Measure how well a linear probe of the frozen states tells which source a held-out passage is of.

    An item is a window of 16 tokens, equally many of each source. A hash of the document's name puts it with the
    windows that the probes learn from or with those they are asked of, so a module's prose and code stay together.

    Raises:
        TaskSkippedError: scikit-learn is not installed, or fewer than two sources hold out enough documents.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise TaskSkippedError("probes need the library scikit-learn", fix=install_extra("eval"))
    prepared = context.study_of(model).prepared
    by_source = held_out_windows(prepared.held_out, PROBE_TOKENS, "source_probe 1")
    learn, asked, documents = [], [], {}
    for label, (source, windows) in enumerate(by_source.items()):
        parts: tuple[list[Example], list[Example]] = ([], [])
        for window in windows:
            document = window.id.rpartition("@")[0].removeprefix(f"{source}/")
            part = parts[hash64(f"source_probe {document}") % 2]
            if len(part) < PROBE_WINDOWS:
                part.append(Example(window.id, prepared.tokenizer.decode(window.content), label))
                documents[window.id] = document
        learn.append(parts[0])
        asked.append(parts[1])
    # Equally many windows of each source, so that the most frequent source tells nothing.
    sizes = [min(map(len, part)) for part in (learn, asked)]
    if len(by_source) < 2 or min(sizes) < LEAST_PROBE_WINDOWS:
        raise TaskSkippedError(
            "the probe of sources needs two sources that hold out documents",
            seen=f"{min(sizes, default=0)} passages of the smallest",
            allowed=f"at least {LEAST_PROBE_WINDOWS}",
            fix="hold out more documents",
        )
    # Source after source in turn, so that a limit keeps the sources even too.
    train, test = (
        tuple(row for turn in zip(*(own[:size] for own in part), strict=True) for row in turn)
        for part, size in zip((learn, asked), sizes, strict=True)
    )
    test = tuple(context.limited(test))
    labelled = LabelledSet("source_probe", "classes", tuple(by_source), train, train[:1], test)
    outcome = probed_outcome(labelled, probe_set(model, labelled, context.watch))
    items = [item.model_copy(update={"cluster": documents[item.id]}) for item in outcome.items]
    settings = outcome.settings | {"window_tokens": PROBE_TOKENS}
    return replace(outcome, items=items, settings=settings, standard_error=None)


def _task(name: str, title: str, run: Callable[[TextModel, TaskContext], Any], **more: Any) -> SuiteTask:
    usual: dict[str, Any] = {"metric": "accuracy", "higher_is_better": True, "directions": BOTH, "uses": ()}
    usual["study_lacks"] = lambda _study: ""
    return SuiteTask(name=name, version=1, title=title, suite=OWN_SUITE, run=run, inputs=(), **usual | more)


TASKS = (
    _task(
        "bits_per_byte",
        "Held-out text, bits per byte",
        measure_bits_per_byte,
        metric="bits_per_byte",
        unit="bits per byte",
        higher_is_better=False,
        directions=("causal",),
    ),
    _task(
        "bits_per_byte_bound",
        "Held-out text, upper bound of bits per byte",
        measure_bits_per_byte_bound,
        metric="bits_per_byte_bound",
        unit="bits per byte",
        higher_is_better=False,
        directions=("bidirectional",),
    ),
    _task(
        "masked_accuracy",
        "Held-out text, masked tokens",
        measure_masked_accuracy,
        unit="share of masked tokens",
        directions=("bidirectional",),
    ),
    _task(
        "continuation",
        "True continuation among four",
        measure_continuation,
        unit="share of items",
        uses=("scoring", "continuation_items"),
    ),
    _task(
        "source_probe",
        "Source of a passage, frozen probe",
        measure_source_probe,
        unit="share of passages",
        study_lacks=lambda study: "" if len(study.prepared.held_out) > 1 else "the study has one source",
    ),
    _task(SAMPLES_NAME.removesuffix(".json"), "Samples, shown and never scored", make_samples, metric="", unit=""),
)
