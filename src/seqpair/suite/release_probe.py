"""The probe of a release: fixed held-out sequences whose loss says in seconds whether weights are the stated ones.

It is small enough to lie in every revision's record, so that whoever has a revision can compute its loss again without
the study's data. All members of a study have the same sequences and the same masked places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from seqpair.counter import hash_words, key_words
from seqpair.data.prepared import Prepared
from seqpair.errors import DataError
from seqpair.evaluate.study_text import HeldOutSequence, held_out_sequences
from seqpair.hub.import_folder import ImportedModel, read_hub_folder
from seqpair.hub.native import NativeModel
from seqpair.hub.revision import ProbeResult, ProbeSequence

PROBE_SEQUENCES = 64
PROBE_TOKENS = 128
"""Tokens of the longest sequence, specials included: enough for a loss, and little in a record of each revision."""
MASKED_FRAC = 0.3
LOSS_TOLERANCE = 1e-4
_PURPOSE = "release probe 1"
_ROWS_AT_ONCE = 4  # a decoder's logits of four rows and 50,000 entries take 100 MB


def make_probe(prepared: Prepared, shortest_tokens: int) -> tuple[ProbeSequence, ...]:
    """Return the probe of a study: up to 64 held-out sequences, taken in turns from its sources.

    Args:
        prepared: The study's tokenizer and stores.
        shortest_tokens: Tokens of a full sequence in the phase that has the shortest ones.

    Raises:
        DataError: The study holds nothing out.
    """
    seq_len = min(PROBE_TOKENS, shortest_tokens)
    found = held_out_sequences(prepared.held_out, seq_len, PROBE_SEQUENCES * seq_len * len(prepared.held_out), _PURPOSE)
    by_source: dict[str, list[HeldOutSequence]] = {}
    for sequence in found:
        by_source.setdefault(sequence.source, []).append(sequence)
    in_turns = (one for one in chain.from_iterable(zip_longest(*by_source.values())) if one is not None)
    chosen = [one for one, _ in zip(in_turns, range(PROBE_SEQUENCES), strict=False)]
    if not chosen:
        raise DataError(
            "a release states the loss on held-out text, and the study holds none out",
            seen="no held-out sequence",
            fix="give a source of the recipe a `held_out_frac`",
        )
    return tuple(
        ProbeSequence(id=one.id, ids=tuple(one.content.tolist()), masked=_masked(one.id, len(one.content)))
        for one in chosen
    )


def _masked(name: str, tokens: int) -> tuple[int, ...]:
    """Return the places to mask: the first ones of a permutation that the sequence's id fixes, at least one."""
    order = np.argsort(hash_words(key_words(_PURPOSE, name), np.arange(tokens, dtype=np.int64)), kind="stable")
    return tuple(sorted(order[: max(1, round(MASKED_FRAC * tokens))].tolist()))


def measure_probe(folder: Path, sequences: Sequence[ProbeSequence]) -> tuple[ProbeResult, ImportedModel]:
    """Return the loss of a folder's weights on a probe, in fp32, and what was read of the folder.

    A decoder predicts every content token, an encoder the masked ones, all of which it sees as the mask.

    Args:
        folder: The files of an export.
        sequences: The probe.

    Raises:
        HubFolderError: A file is missing or damaged, or the model cannot be expressed here.
        CheckpointError: The weights do not fit the configuration, or are not finite.
    """
    read = read_hub_folder(folder)
    native = NativeModel(read.model_plan, read.model, read.direction, read.rope)
    nats, predicted = 0.0, 0
    for first in range(0, len(sequences), _ROWS_AT_ONCE):
        rows, places, targets = [], [], []
        for sequence in sequences[first : first + _ROWS_AT_ONCE]:
            row, place, target = _question(read, sequence)
            rows.append(row)
            places.append(place)
            targets.append(target)
        logits = native.head(native.states(rows, places))  # (M, V)
        wanted = torch.from_numpy(np.concatenate(targets))  # (M,)
        nats += float(F.cross_entropy(logits, wanted, reduction="none").double().sum())
        predicted += len(wanted)
    return ProbeResult(loss=nats / predicted, predicted=predicted, sequences=tuple(sequences)), read


def _question(read: ImportedModel, sequence: ProbeSequence) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the row that the model reads, the places of its predictions, and the tokens that are right there."""
    specials, content = read.tokenizer.specials, np.array(sequence.ids, dtype=np.int64)
    if read.direction == "causal":
        # The output at [CLS] predicts the first content token, and so on.
        return np.concatenate(([specials.cls], content[:-1])), np.arange(len(content)), content
    masked = np.array(sequence.masked, dtype=np.int64)
    shown = content.copy()
    shown[masked] = specials.mask
    places = masked + 1 if read.predicts == "masked" else masked  # one place to the left for `masked_next`
    return np.concatenate(([specials.cls], shown, [specials.sep])), places, content[masked]


def weights_distance(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> float:
    """Return the L2 norm of the difference between two models' parameters of the same names and shapes."""
    return float(sum((values.double() - b[name].double()).square().sum() for name, values in a.items())) ** 0.5
