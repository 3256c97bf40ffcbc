"""A folder of one class as a folder of the other: the same weights, read in the other attention direction.

The two classes have the same parameters under other names, so nothing is learned and nothing is lost. What changes is
what a token sees. So a conversion is written only if its weights are the source's bit for bit, if transformers computes
from it what our model computes in that direction, and if a changed token moves earlier outputs as the direction says.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seqpair.errors import ExportError, HubFolderError
from seqpair.files import read_json, replacing_folder, sha256_file, write_bytes, write_json, write_text
from seqpair.hub.card import loading_code
from seqpair.hub.config import CONFIG_NAME, ModelFacts, Predicts, generation_config, hub_config
from seqpair.hub.export import write_sentence_files, write_tokenizer
from seqpair.hub.import_folder import ImportedModel, read_hub_folder
from seqpair.hub.library import require_transformers
from seqpair.hub.native import NativeModel
from seqpair.hub.verify import (
    Verification,
    checked_row_tokens,
    load_hub_model,
    rows_of_training,
    texts_to_check,
    verify_export,
)
from seqpair.hub.weight_files import read_tensors, weight_files, weights_bytes
from seqpair.hub.weights import WEIGHTS_NAME, to_hub
from seqpair.recipe.objectives import OBJECTIVES, Direction, Objective

CONVERSION_RECORD = "seqpair_conversion.json"
DIRECTIONS: dict[str, Direction] = {"encoder": "bidirectional", "decoder": "causal"}
_CHANGES = 4
"""How many tokens are changed, one at a time, to see what a change moves."""
_TEXTS = 6
_OBJECTIVES: dict[Predicts, str] = {"next": "clm", "masked": "mlm", "masked_next": "mntp"}


@dataclass(frozen=True)
class Leakage:
    """What one changed token moves in the converted model, over some places of one row.

    Attributes:
        row_tokens: Tokens of the row, beyond both sides of the window where the model reads so far.
        changed: The places that were changed, one at a time.
        least_before, most_before: The least and the largest difference of logits before the change, over the changes.
        least_from: The least largest difference of logits at the change or after it.
    """

    row_tokens: int
    changed: tuple[int, ...]
    least_before: float
    most_before: float
    least_from: float


@dataclass(frozen=True)
class Conversion:
    """What was converted.

    Attributes:
        folder: Where it is.
        hub_class: Its Hugging Face class.
        predicts: Which output predicts which token.
        verification: How it compares with our model in that direction.
        leakage: What a changed token moves.
    """

    folder: Path
    hub_class: str
    predicts: Predicts
    verification: Verification
    leakage: Leakage

    def as_json(self) -> dict[str, Any]:
        """Return the values as JSON."""
        return {**asdict(self), "folder": str(self.folder)}


def convert(source: ImportedModel, out: Path, to: Direction, name: str) -> Conversion:
    """Write a model as the class of a direction, with its window, RoPE bases and tokenizer; of its own class, anew.

    Args:
        source: The model; its window and bases are what its class computes.
        out: The folder to make; it must not exist.
        to: The direction.
        name: What the source is called in record and card.

    Raises:
        HubFolderError: The source has no language-model head.
        ExportError: The conversion would not be exact, `out` is in the way, or transformers is missing. Nothing is
            written then.
    """
    if not source.has_head:
        raise HubFolderError(
            "a model without a language-model head cannot be converted",
            seen=source.folder,
            allowed="a masked or a causal language model",
            fix="train a head first: start a member from the folder",
        )
    if out.exists():
        raise ExportError("the output folder exists", seen=out, fix="choose another folder")
    version = require_transformers(ExportError, "converting").__version__
    predicts = _predicts(source, to)
    objective = OBJECTIVES[_OBJECTIVES[predicts]]
    with replacing_folder(out) as folder:
        _write_files(folder, source, objective, version)
        if not _same_weights(source, read_hub_folder(folder)):
            raise ExportError(
                "the converted weights are not those of the source; nothing was written",
                seen=name,
                fix="report this: it is a fault of seqpair",
            )
        native = NativeModel(source.model_plan, source.model, to, source.rope)
        row_tokens = checked_row_tokens(source.seq_len, source.model_plan.window_tokens)
        texts = texts_to_check(None, source.tokenizer, row_tokens)[:_TEXTS]
        proof = verify_export(folder, native, source.tokenizer, objective, texts, row_tokens=row_tokens)
        row = rows_of_training(texts[:1], source.tokenizer, to, row_tokens)[0]
        leakage = measure_leakage(folder, to, row, source.tokenizer.specials.unk)
        done = Conversion(out, objective.hub_class, predicts, proof, leakage)
        write_text(folder / "README.md", _card(done, source, name))
        write_json(folder / CONVERSION_RECORD, _record(done, source, name, folder))
    return done


@torch.no_grad()
def measure_leakage(folder: Path, direction: Direction, row: np.ndarray, other_id: int) -> Leakage:
    """Change one token of a row at a time, and see which outputs of the folder's class move.

    Args:
        folder: A folder of one of the two classes.
        direction: Its direction.
        row: Token ids with specials, (T,), at least 8.
        other_id: What a token is changed to.

    Raises:
        ExportError: An output before the change of a decoder moves, or none of an encoder does.
    """
    model, _ = load_hub_model(folder, direction, "sdpa")
    ids = torch.from_numpy(row)[None]
    logits = model(input_ids=ids).logits[0]  # (T, V)
    changed = [int(place) for place in np.linspace(2, len(row) - 1, _CHANGES)]
    before, after = [], []
    for place in changed:
        other = ids.clone()
        other[0, place] = other_id if other[0, place] != other_id else int(row[1])
        moved = (model(input_ids=other).logits[0] - logits).abs().amax(dim=1)  # (T,)
        before.append(float(moved[:place].max()))
        after.append(float(moved[place:].max()))
    found = Leakage(len(row), tuple(changed), min(before), max(before), min(after))
    right = found.most_before == 0.0 if direction == "causal" else found.least_before > 0.0
    if not (right and found.least_from > 0.0):
        raise ExportError(
            "a changed token does not move the outputs that the class's direction says; nothing was written",
            seen=f"before the change {found.least_before:g} to {found.most_before:g}, from it on {found.least_from:g}",
            allowed="before the change exactly 0" if direction == "causal" else "before the change more than 0",
            fix="report this with the folder's config.json and the version of transformers",
        )
    return found


def _predicts(source: ImportedModel, to: Direction) -> Predicts:
    """Return which output predicts which token after a conversion.

    A decoder's output is about the next token, so that of the encoder made from it stands one position before a mask.
    An encoder that became a decoder, with no training since, becomes what it was.
    """
    if to == source.direction:
        return source.predicts
    if to == "causal":
        return "next"
    path = source.folder / CONVERSION_RECORD
    record = read_json(path, ExportError, "put back a good copy, or remove it", missing_ok=True)
    files = record.get("files") or {}
    untouched = bool(files) and all(sha256_file(file) == files.get(file.name) for file in weight_files(source.folder))
    earlier: Predicts = record["source_predicts"] if untouched else "next"
    return "masked_next" if earlier == "next" else earlier


def _write_files(folder: Path, source: ImportedModel, objective: Objective, version: str) -> None:
    plan, ids = source.model_plan, source.tokenizer.specials
    to, bases = objective.direction, source.rope
    facts = ModelFacts(plan, to, source.seq_len, bases.global_theta, bases.local_theta, ids, objective.predicts)
    tensors = to_hub(source.model, plan.shape.layers, to)
    # Back to the precision in which the source is stored: its values are exact in fp32, so this changes no bit.
    kinds = (
        {values.dtype for values in read_tensors(weight_files(source.folder)).values()} if _is_folder(source) else set()
    )
    dtype = next(iter(kinds)) if len(kinds) == 1 else torch.float32
    tensors = {name: values.to(dtype) for name, values in tensors.items()}
    write_json(folder / CONFIG_NAME, hub_config(facts, version) | {"dtype": str(dtype).removeprefix("torch.")})
    if to == "causal":
        write_json(folder / "generation_config.json", generation_config(ids, version))
    write_bytes(folder / WEIGHTS_NAME, weights_bytes(tensors, {"converted_from": source.digest}))
    write_tokenizer(folder, source.tokenizer, objective, source.seq_len)
    write_sentence_files(folder, to, plan.shape.width, source.seq_len)


def _is_folder(source: ImportedModel) -> bool:
    return (source.folder / CONFIG_NAME).is_file()  # a checkpoint of ours has none, and is fp32


def _same_weights(source: ImportedModel, written: ImportedModel) -> bool:
    same = source.model.keys() == written.model.keys()
    return same and all(torch.equal(values, written.model[name]) for name, values in source.model.items())


def _record(done: Conversion, source: ImportedModel, name: str, folder: Path) -> dict[str, Any]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        "format_version": 1,
        "source": name,
        "source_class": source.hub_class,
        "source_predicts": source.predicts,
        "source_digest": source.digest,
        "class": done.hub_class,
        "predicts": done.predicts,
        "weights": "bit-equal",
        "leakage": asdict(done.leakage),
        **done.verification.as_json(),
        "files": {path.relative_to(folder).as_posix(): sha256_file(path) for path in paths},
    }


def _card(done: Conversion, source: ImportedModel, name: str) -> str:
    """Return the model card of a conversion as Markdown."""
    window = source.model_plan.window_tokens
    leak, proof, causal = done.leakage, done.verification, done.predicts == "next"
    kind, seen = ("a decoder", "only earlier tokens") if causal else ("an encoder", "tokens on both sides")
    apart = f"at most {proof.max_abs_difference:.2g} apart over {proof.checked_tokens} tokens"
    moved = "exactly 0" if causal else f"{leak.least_before:.2g} to {leak.most_before:.2g}"
    return f"""---
library_name: transformers
tags: [seqpair, modernbert]
---

# {name} as {kind}

A `{done.hub_class}` with the weights of `{name}` ({source.hub_class}), converted by seqpair.
The weights are equal bit for bit; a text begins and ends as this class needs it. A token sees {seen}, in local
layers {window} of them to each visible side. **The model was not trained in this direction**: it is a start for
training, not a finished model.

## Loading

```python
{loading_code(done.predicts)}
```

## Proof

| | |
|---|---|
| weights | bit-equal to the source |
| logits against seqpair's model in this direction, fp32 | {apart} |
| logits before a changed token, {len(leak.changed)} changes in {leak.row_tokens} tokens | moved by {moved} |
| logits from the changed token on | moved by {leak.least_from:.2g} or more |
"""
