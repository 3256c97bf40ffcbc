"""A study's own text as evaluation reads it: held-out sequences and windows, and the unigram baseline.

Every sample is a function of the stores' content and of a purpose, so all members of a study get the same items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from seqpair.checkpoint.manifest import read_checkpoint_manifest
from seqpair.counter import hash_words, key_words
from seqpair.data.prepared import Prepared, open_prepared
from seqpair.data.store.store import Store
from seqpair.data.tokenizer.tokenizer import Tokenizer
from seqpair.errors import EvaluationError, StoreError
from seqpair.files import sha256_json
from seqpair.hub.export import read_export_record
from seqpair.models.place import ModelPlace
from seqpair.paths import PLAN_FILE
from seqpair.recipe.plan import Plan

Ids = NDArray[np.int64]
PROOF_TEXTS_A_SOURCE = 6
_PROOF_TOKENS = 1500
MOST_TOKENS_A_SOURCE = 50_000_000
_CHUNK_TOKENS = 1 << 22


@dataclass(frozen=True)
class HeldOutSequence:
    """A piece of a held-out document.

    Attributes:
        id: `source/document#piece` or `source/document@offset`, the same for all members.
        source: The source's name.
        row: The document's row in its store.
        content: Its content ids.
    """

    id: str
    source: str
    row: int
    content: Ids


def _shuffled(count: int, *key: object) -> NDArray[np.int64]:
    """Return [0, count) in an order fixed by the key."""
    return np.argsort(hash_words(key_words("evaluate", *key), np.arange(count, dtype=np.int64)), kind="stable")


def held_out_sequences(
    held_out: Mapping[str, Store], seq_len: int, budget_tokens: int, purpose: str
) -> list[HeldOutSequence]:
    """Return training-like sequences of the held-out documents, the budget shared among the sources.

    Args:
        held_out: The held-out stores by source.
        seq_len: Tokens of a full sequence, specials included.
        budget_tokens: Content tokens to take, all sources together; at least one sequence of each.
        purpose: The task's name and version; another purpose takes another sample.
    """
    found: list[HeldOutSequence] = []
    for source, store in sorted(held_out.items()):
        pieces = store.pieces(seq_len)
        order = _shuffled(pieces.count, purpose, source)
        located = pieces.locate(order)
        ends = np.cumsum(located.stop - located.start)
        taken = min(pieces.count, int(np.searchsorted(ends, budget_tokens / len(held_out))) + 1)
        for place in range(taken):
            row = int(located.rows[place])
            content = store.tokens[int(located.start[place]) : int(located.stop[place])].astype(np.int64)
            found.append(
                HeldOutSequence(f"{source}/{store.document_id(row)}#{located.piece[place]}", source, row, content)
            )
    return found


def held_out_windows(
    held_out: Mapping[str, Store], window_tokens: int, purpose: str
) -> dict[str, list[HeldOutSequence]]:
    """Return all non-overlapping windows of the held-out documents by source, in an order fixed by the purpose.

    A document of n tokens gives n // window_tokens windows from its start.
    """
    found: dict[str, list[HeldOutSequence]] = {}
    for source, store in sorted(held_out.items()):
        counts = np.diff(store.offsets) // window_tokens  # windows of each document
        starts = np.concatenate(([0], np.cumsum(counts)))
        windows = []
        for index in _shuffled(int(starts[-1]), purpose, source):
            row = int(np.searchsorted(starts, index, side="right")) - 1
            offset = int(index - starts[row]) * window_tokens
            content = store.document_tokens(row)[offset : offset + window_tokens].astype(np.int64)
            windows.append(HeldOutSequence(f"{source}/{store.document_id(row)}@{offset}", source, row, content))
        found[source] = windows
    return found


def held_out_texts(checkpoint: Path) -> list[str] | None:
    """Return held-out texts of a checkpoint's study, or `None` if its stores are not at hand.

    Args:
        checkpoint: The checkpoint's folder.

    Raises:
        CheckpointError: The checkpoint's manifest cannot be read.
    """
    plan = read_checkpoint_manifest(checkpoint).plan
    try:
        prepared = open_prepared(plan.sources, plan.tokenizer, Path(plan.store_folder))
    except StoreError:
        return None
    texts = []
    for source, store in sorted(prepared.held_out.items()):
        for row in _shuffled(store.manifest.documents, "proof", source)[:PROOF_TEXTS_A_SOURCE]:
            texts.append(prepared.tokenizer.decode(store.document_tokens(int(row))[:_PROOF_TOKENS]))
    return texts


class UnigramModel:
    """Token frequencies of the training stores, with one added to every entry.

    p(t) = (count(t) + 1) / (tokens + entries)

    Attributes:
        bits: (entries,) float64, -log2 p of every entry.
        most_frequent: The most frequent entry.
    """

    def __init__(self, counts: NDArray[np.int64]) -> None:
        smoothed = counts.astype(np.float64) + 1.0
        self.bits: NDArray[np.float64] = np.log2(smoothed.sum()) - np.log2(smoothed)
        self.most_frequent = int(np.argmax(counts))

    @classmethod
    def of(cls, train: Mapping[str, Store], tokenizer: Tokenizer) -> UnigramModel:
        """Count the training stores' tokens: of each source all, at most the first 50 million."""
        counts = np.zeros(tokenizer.entries, dtype=np.int64)
        for store in train.values():
            tokens = store.tokens[:MOST_TOKENS_A_SOURCE]
            for first in range(0, len(tokens), _CHUNK_TOKENS):
                counts += np.bincount(tokens[first : first + _CHUNK_TOKENS], minlength=tokenizer.entries)
        return cls(counts)


@dataclass
class StudyText:
    """What the tasks on a study's own text read; the same for all members with one sequence length.

    Attributes:
        prepared: The study's tokenizer and stores.
        seq_len: Tokens of a full sequence in the member's last phase, specials included.
    """

    prepared: Prepared
    seq_len: int

    @cached_property
    def unigram(self) -> UnigramModel:
        """The unigram model of the training stores."""
        return UnigramModel.of(self.prepared.train, self.prepared.tokenizer)

    @property
    def digest(self) -> str:
        """The digest of everything here that a result can depend on."""
        stores = {"train": self.prepared.train, "held_out": self.prepared.held_out}
        return sha256_json(
            {
                "tokenizer": self.prepared.tokenizer.digest,
                "seq_len": self.seq_len,
                **{
                    split: {name: store.manifest.digest for name, store in own.items()} for split, own in stores.items()
                },
            }
        )


class StudyTexts:
    """Finds the study of an export or a checkpoint, and opens each study's data once.

    Args:
        plan_of: From a model and its export record to the member's plan; by default that of a checkpoint's manifest,
            or the `plan.json` of the run that the export lies in.
    """

    def __init__(self, plan_of: Callable[[ModelPlace, Mapping[str, Any]], Plan] | None = None) -> None:
        self._plan_of = plan_of or _plan_beside
        self._known: dict[str, StudyText] = {}

    def of(self, place: ModelPlace) -> StudyText:
        """Return the text of the study that a model was trained in.

        Raises:
            EvaluationError: The model is neither an export nor a checkpoint of seqpair, its plan is not known, or the
                plan is of another study, member or tokenizer.
            StoreError: The study's data is not prepared here.
        """
        record = _record(place)
        plan = self._plan_of(place, record)
        key = sha256_json(
            {
                "sources": [source.model_dump(mode="json") for source in plan.sources],
                "tokenizer": plan.tokenizer.model_dump(mode="json"),
                "stores": plan.store_folder,
                "seq_len": record["seq_len"],
            }
        )
        if key not in self._known:
            prepared = open_prepared(plan.sources, plan.tokenizer, Path(plan.store_folder))
            self._known[key] = StudyText(prepared, int(record["seq_len"]))
        text = self._known[key]
        wanted = {
            "study": plan.study,
            "member": plan.member,
            "tokenizer_digest": text.prepared.tokenizer.digest,
        }
        wrong = {name: record[name] for name, value in wanted.items() if record[name] != value}
        if wrong:
            raise EvaluationError(
                f"{place.folder} does not belong to this member and data",
                seen=", ".join(f"{name} {value}" for name, value in wrong.items()),
                allowed=", ".join(f"{name} {wanted[name]}" for name in wrong),
                fix="export the member again, or give the recipe that it was trained with",
            )
        return text


def _record(place: ModelPlace) -> Mapping[str, Any]:
    """Return what an export or a checkpoint says of the member that it is.

    Raises:
        EvaluationError: The model is neither.
    """
    if place.as_class:
        manifest = read_checkpoint_manifest(place.folder)
        return manifest.model_dump(include={"study", "member", "tokenizer_digest"}) | {
            "seq_len": manifest.plan.phase(manifest.phase).seq_len
        }
    if not place.is_ours:
        raise EvaluationError(
            "only a member of a study can be measured on the study's own text",
            seen=place.name,
            allowed="an export, a run or a checkpoint of seqpair",
            fix="leave out the suite `own`, or name the member's run: `seqpair eval runs/STUDY/MEMBER --suite own`",
        )
    return read_export_record(place.folder)


def _plan_beside(place: ModelPlace, _record: Mapping[str, Any]) -> Plan:
    """Return the plan of a checkpoint, or of the run that an export lies in."""
    if place.as_class:
        return read_checkpoint_manifest(place.folder).plan
    path = place.folder.resolve().parent / PLAN_FILE
    try:
        return Plan.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise EvaluationError(
            "the study of this export is not known",
            seen=f"no {PLAN_FILE} of this version beside {place.folder}",
            allowed="an export inside its run folder, `<runs>/<study>/<member>/export`",
            fix="name the recipe that it was trained with: `--recipe RECIPE`",
        ) from error
