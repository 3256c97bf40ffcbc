"""Exports: a checkpoint becomes a folder that the Hugging Face classes load, or nothing is written.

An encoder's text is `[CLS] text [SEP]`, padded on the right; a decoder's is `[CLS] text`, padded on the left: its
`[SEP]` is what it says when it has finished, and `generate` needs the text's end at the end of the row. The
sentence-transformers files state the pooling: the mean over all tokens for an encoder, the last token for a decoder,
whose earlier tokens have not seen the whole text.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seqpair.checkpoint.catalog import latest_valid
from seqpair.checkpoint.manifest import MANIFEST_NAME, CheckpointManifest
from seqpair.checkpoint.store import load_checkpoint
from seqpair.data.tokenizer.tokenizer import Tokenizer, load_tokenizer
from seqpair.errors import CheckpointError, ExportError
from seqpair.files import (
    TEMPORARY_PREFIX,
    read_json,
    replacing_folder,
    sha256_file,
    write_bytes,
    write_json,
    write_text,
)
from seqpair.hub.card import model_card
from seqpair.hub.config import ModelFacts, generation_config, hub_config
from seqpair.hub.formats import DTYPES, Dtype, ExportSource, Format, add_formats, require_formats
from seqpair.hub.library import require_transformers
from seqpair.hub.verify import Verification, texts_to_check, verify_export
from seqpair.hub.weight_files import weights_bytes
from seqpair.hub.weights import WEIGHTS_NAME, to_hub
from seqpair.paths import CHECKPOINTS_FOLDER
from seqpair.recipe.objectives import OBJECTIVES, Direction, Objective

RECORD_NAME = "seqpair_export.json"
FORMAT_VERSION = 1
TOKENIZER_FOLDER = "tokenizer"


@dataclass(frozen=True)
class ExportReport:
    """What was exported.

    Attributes:
        folder: Where it is.
        hub_class: The Hugging Face class.
        objective: The objective that it is exported for: the last one, or the chosen part of `hybrid`.
        checkpoint: The checkpoint's name.
        model_digest: SHA-256 of the weights file.
        verification: The proof.
        formats: For each further format, and for weights of lower precision, what was measured of it.
    """

    folder: Path
    hub_class: str
    objective: str
    checkpoint: str
    model_digest: str
    verification: Verification
    formats: dict[str, dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """Return the values as JSON."""
        return {**asdict(self), "folder": str(self.folder)}


def checkpoint_at(path: Path) -> Path:
    """Return the checkpoint that a path means: itself, or the newest valid one of a run folder.

    Raises:
        CheckpointError: There is neither.
    """
    if (path / MANIFEST_NAME).is_file() or not (path / CHECKPOINTS_FOLDER).is_dir():
        return path
    newest = latest_valid(path)
    if newest is None:
        raise CheckpointError(
            "the run has no checkpoint that can be used",
            seen=path,
            fix="`seqpair checkpoints --verify` says why; or train it first",
        )
    return newest.path


def last_objective(manifest: CheckpointManifest) -> Objective:
    """Return the objective of the last step behind a checkpoint."""
    return manifest.plan.phase(manifest.phase).objective_of(max(0, manifest.phase_step - 1))


def export_choices(trained: Objective) -> tuple[str, ...]:
    """Return the objectives that a member can be exported for: its own, or both parts, the larger one first."""
    return trained.parts[::-1] if trained.parts else (trained.name,)


def exported_objective(trained: Objective, as_class: str | None) -> Objective:
    """Return the objective that fixes an export's class, template and predicted token.

    Args:
        trained: The objective that was trained last.
        as_class: The objective asked for; `None` is the only one, or `mntp` of `hybrid`.

    Raises:
        ExportError: It was not trained with that objective.
    """
    choices = export_choices(trained)
    if as_class is not None and as_class not in choices:
        raise ExportError(
            "the member cannot be exported as this class, because it was not last trained so",
            seen=as_class,
            allowed=f"{' or '.join(choices)} (last trained with {trained.name})",
            fix="leave the choice out",
        )
    return OBJECTIVES[as_class or choices[0]]


def _read_source(checkpoint: Path, as_class: str | None, dtype: Dtype = "fp32") -> ExportSource:
    if dtype not in DTYPES:
        raise ExportError("weights cannot be stored in this precision", seen=dtype, allowed=", ".join(DTYPES))
    loaded = load_checkpoint(checkpoint, model_only=True)
    tokenizer = checkpoint_tokenizer(checkpoint, loaded.manifest)
    trained = last_objective(loaded.manifest)
    objective = exported_objective(trained, as_class)
    facts = _facts(loaded.manifest, objective, tokenizer)
    exact = to_hub(loaded.model, facts.model.shape.layers, facts.direction)
    tensors = {name: values.to(DTYPES[dtype]) for name, values in exact.items()}
    return ExportSource(loaded.manifest, tensors, tokenizer, trained, objective, facts, dtype, dict(loaded.model))


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    texts: Sequence[str] | None = None,
    *,
    as_class: str | None = None,
    overwrite: bool = False,
    dtype: Dtype = "fp32",
    formats: Sequence[Format] = (),
) -> ExportReport:
    """Export a checkpoint, prove the export, and only then give it its name.

    Args:
        checkpoint: A checkpoint's folder, or a run's folder (its newest valid checkpoint).
        out: The folder to make.
        texts: Real texts to compare on; the study's held-out text is best. `None` takes this package's source.
        as_class: For a member trained with `hybrid`: `mntp` (the encoder class, the default) or `clm`.
        overwrite: Replace `out` if it is an earlier export.
        dtype: The precision of the weights in the file. With `bf16` the file is proven against the trained model with
            its weights rounded, and the distance to the model itself is measured.
        formats: Further formats to make of these weights, in the same folder: `onnx`, `onnx-int8`, `gguf`.

    Raises:
        ExportError: The export would not compute what the model computes, `out` is in the way, `as_class`
            is not what was trained, a format cannot hold the model, or a library is missing. Nothing is written
            then, and an earlier export stays.
        CheckpointError: The checkpoint cannot be used, or its tokenizer is missing or another one.
    """
    _settle_earlier(out)
    _require_free(out, overwrite)
    version = require_transformers(ExportError, "exporting").__version__
    source = _read_source(checkpoint_at(checkpoint), as_class, dtype)
    require_formats(source, formats)
    try:
        with replacing_folder(out) as folder:
            report = _fill(folder, out, source, texts, formats, version)
            if out.exists():
                out.rename(_aside(out))
    finally:
        _settle_earlier(out)
    return report


def _fill(
    folder: Path, out: Path, source: ExportSource, texts: Sequence[str] | None, formats: Sequence[Format], version: str
) -> ExportReport:
    """Write and prove all files of an export; `folder` becomes `out` afterwards."""
    _write_files(folder, source, version)
    native = source.native(rounded=True)
    real = texts_to_check(texts, source.tokenizer, source.row_tokens)
    proof = verify_export(folder, native, source.tokenizer, source.objective, real, row_tokens=source.row_tokens)
    measured = add_formats(folder, source, native, real, formats)
    write_text(folder / "README.md", model_card(source.manifest, source.objective, source.trained, proof, measured))
    files = {
        path.relative_to(folder).as_posix(): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }
    objective, digest = source.objective, files[WEIGHTS_NAME]
    report = ExportReport(out, objective.hub_class, objective.name, source.manifest.name, digest, proof, measured)
    record = _record(source, report, version)
    write_json(folder / RECORD_NAME, record | {"files": files})
    return report


def write_unproven(checkpoint: Path, folder: Path, as_class: str | None = None) -> None:
    """Write the files of an export without proof and record, for one use by this process.

    Args:
        checkpoint: A checkpoint's folder.
        folder: An empty folder.
        as_class: As in `export_checkpoint`.

    Raises:
        ExportError: `as_class` is not what was trained.
        CheckpointError: The checkpoint cannot be used, or its tokenizer is missing or another one.
    """
    _write_files(folder, _read_source(checkpoint, as_class), version="")


def read_export_record(folder: Path) -> dict[str, Any]:
    """Return `seqpair_export.json` of an export.

    Raises:
        ExportError: The folder is no export of ours, or its record is damaged.
    """
    path = folder / RECORD_NAME
    if not path.is_file():
        raise ExportError("this folder is not an export of seqpair", seen=folder, fix="make one with `seqpair export`")
    keys = dict.fromkeys(("objective", "direction", "predicts", "checkpoint", "model_digest"), str)
    record = read_json(path, ExportError, "export the checkpoint again, or put back a good copy", keys)
    if not isinstance(record.get("files", {}), dict) or record["direction"] not in ("bidirectional", "causal"):
        raise ExportError(
            f"{path} is not a record of an export",
            seen=f"direction {record['direction']}, files {str(record.get('files'))[:40]}",
            allowed="direction bidirectional or causal, and each file with its SHA-256",
            fix="export the checkpoint again, or put back a good copy",
        )
    return record


def _keep_others(earlier: Path, out: Path) -> None:
    """Move what no export wrote from an earlier export into the new one; records of old exports list no files."""
    listed = read_export_record(earlier).get("files")
    for path in sorted(earlier.rglob("*")) if listed else ():
        name = path.relative_to(earlier)
        target = out / name
        if path.is_file() and name.as_posix() not in (*listed, RECORD_NAME) and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)


def _require_free(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    ours = (out / RECORD_NAME).is_file()
    if not ours:
        raise ExportError(
            "the output folder exists and is not an export of seqpair",
            seen=out,
            allowed="a folder that does not exist yet, or an earlier export together with --overwrite",
            fix="choose another folder",
        )
    if not overwrite:
        raise ExportError("the output folder contains an earlier export", seen=out, fix="add --overwrite to replace it")


def _aside(out: Path) -> Path:
    """Return where an earlier export lies while the new one takes its name."""
    return out.parent / f"{TEMPORARY_PREFIX}earlier-{out.name}"


def _settle_earlier(out: Path) -> None:
    """Put an earlier export back if no new one took its name, else keep only what no export wrote.

    A process killed between two renames leaves it aside, and with it the files that the user put there.
    """
    aside = _aside(out)
    if aside.exists() and out.exists():
        if (aside / RECORD_NAME).is_file():  # else it was killed while removing what is left
            _keep_others(aside, out)
        shutil.rmtree(aside)
    elif aside.exists():
        aside.rename(out)


def checkpoint_tokenizer(checkpoint: Path, manifest: CheckpointManifest) -> Tokenizer:
    """Load the tokenizer of a checkpoint's run, `<run>/tokenizer`, and hold it against the manifest.

    Raises:
        CheckpointError: It is missing, or not the one that the checkpoint was trained with.
    """
    folder = checkpoint.resolve().parent.parent / TOKENIZER_FOLDER
    if not folder.is_dir():
        raise CheckpointError(
            "the run's tokenizer is missing",
            seen=f"no folder {folder}",
            fix="restore the run's tokenizer folder, beside its checkpoints folder",
        )
    tokenizer = load_tokenizer(folder)
    if tokenizer.digest != manifest.tokenizer_digest or tokenizer.vocab_size != manifest.plan.model.vocab_size:
        raise CheckpointError(
            "the run's tokenizer is not the one that the checkpoint was trained with",
            seen=f"digest {tokenizer.digest[:16]}, {tokenizer.vocab_size} rows",
            allowed=f"digest {manifest.tokenizer_digest[:16]}, {manifest.plan.model.vocab_size} rows",
            fix=f"put the right tokenizer into {folder}",
        )
    return tokenizer


def _facts(manifest: CheckpointManifest, objective: Objective, tokenizer: Tokenizer) -> ModelFacts:
    phase = manifest.plan.phase(manifest.phase)
    return ModelFacts(
        model=manifest.plan.model,
        direction=objective.direction,
        seq_len=phase.seq_len,
        rope_global_theta=phase.rope_global_theta,
        rope_local_theta=phase.rope_local_theta,
        specials=tokenizer.specials,
        predicts=objective.predicts,
    )


def _write_files(folder: Path, source: ExportSource, version: str) -> None:
    facts, objective = source.facts, source.objective
    config = hub_config(facts, version) | {"dtype": str(DTYPES[source.dtype]).removeprefix("torch.")}
    write_json(folder / "config.json", config)
    if facts.direction == "causal":
        write_json(folder / "generation_config.json", generation_config(facts.specials, version))
    write_bytes(folder / WEIGHTS_NAME, weights_bytes(source.tensors, source.about()))
    write_tokenizer(folder, source.tokenizer, objective, facts.seq_len)
    write_sentence_files(folder, facts.direction, facts.model.shape.width, facts.seq_len)


def _record(source: ExportSource, report: ExportReport, version: str) -> dict[str, Any]:
    manifest, objective = source.manifest, source.objective
    return {
        "format_version": FORMAT_VERSION,
        "study": manifest.study,
        "member": manifest.member,
        "size": manifest.plan.size,
        "checkpoint": manifest.name,
        "phase": manifest.phase,
        "content_tokens": manifest.content_tokens,
        "objective": objective.name,
        "trained_objective": source.trained.name,
        "direction": objective.direction,
        "predicts": objective.predicts,
        "class": objective.hub_class,
        "seq_len": source.facts.seq_len,
        "dtype": source.dtype,
        "formats": report.formats,
        **report.verification.as_json(),
        "model_digest": report.model_digest,
        "plan_digest": manifest.plan_digest,
        "tokenizer_digest": manifest.tokenizer_digest,
        "transformers": version,
    }


def tokenizer_config(tokenizer: Tokenizer, padding_side: str, seq_len: int) -> dict[str, Any]:
    """Return `tokenizer_config.json`.

    Args:
        tokenizer: The study's tokenizer.
        padding_side: `left` or `right`.
        seq_len: Tokens of the longest text the model was trained on, specials included.
    """
    names = tokenizer.names
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": seq_len,
        "padding_side": padding_side,
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "bos_token": names["cls"],
        "eos_token": names["sep"],
        "cls_token": names["cls"],
        "sep_token": names["sep"],
        "pad_token": names["pad"],
        "mask_token": names["mask"],
        "unk_token": names["unk"],
    }


def write_tokenizer(folder: Path, tokenizer: Tokenizer, objective: Objective, seq_len: int) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` into a folder."""
    backend = tokenizer.with_template(objective.template, objective.padding_side)
    write_text(folder / "tokenizer.json", backend.to_str(pretty=False))
    config = tokenizer_config(tokenizer, objective.padding_side, seq_len)
    write_json(folder / "tokenizer_config.json", config)


SENTENCE_POOLINGS: dict[Direction, str] = {"bidirectional": "mean", "causal": "lasttoken"}
_MODES = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
_MODE_OF = {"mean": "mean_tokens", "lasttoken": "lasttoken"}


def write_sentence_files(folder: Path, direction: Direction, width: int, seq_len: int) -> None:
    """Write the modules of a model that pools its last hidden states.

    Args:
        folder: The export.
        direction: Its attention direction, which fixes the pooling.
        width: Entries of a hidden state.
        seq_len: Tokens of the longest text, specials included.
    """
    parts = (("", "Transformer"), ("1_Pooling", "Pooling"))
    modules = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (path, kind) in enumerate(parts)
    ]
    chosen = _MODE_OF[SENTENCE_POOLINGS[direction]]
    modes = {f"pooling_mode_{mode}": mode == chosen for mode in _MODES}
    write_json(folder / "modules.json", modules)
    (folder / "1_Pooling").mkdir(exist_ok=True)
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width} | modes)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": seq_len, "do_lower_case": False})
    settings = {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    write_json(folder / "config_sentence_transformers.json", settings)
