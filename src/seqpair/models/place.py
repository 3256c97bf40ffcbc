"""What a user may name as a model, and what is known of it before its weights are loaded.

A model is an export, a checkpoint, a run's folder, a Hugging Face folder, or a name on the Hugging Face hub.
"""

from __future__ import annotations

import difflib
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqpair.checkpoint.manifest import MANIFEST_NAME, MODEL_NAME, damaged, read_checkpoint_manifest
from seqpair.errors import EvaluationError, ExportError, UnsafeModelError
from seqpair.files import file_digest, read_json, sha256_json
from seqpair.hub.config import CONFIG_NAME, PREDICTS_KEY
from seqpair.hub.export import (
    checkpoint_at,
    exported_objective,
    last_objective,
    read_export_record,
)
from seqpair.hub.library import require_transformers
from seqpair.hub.weight_files import PICKLES, first_pickle, pickled, require_safe_files
from seqpair.hub.weights import WEIGHTS_NAME
from seqpair.models.integrity import require_recorded, weights_digest
from seqpair.paths import CHECKPOINTS_FOLDER, EXPORT_FOLDER, EXPORT_RECORD
from seqpair.recipe.objectives import OBJECTIVES, Direction

WEIGHT_PATTERNS = ("*.safetensors", "pytorch_model*.bin")
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece*.model",
)
SMALL_FILES = ("*.json", "*.txt", "*.model", "*/config.json")
_AUTO_CLASSES: dict[Direction, str] = {"bidirectional": "AutoModelForMaskedLM", "causal": "AutoModelForCausalLM"}
_HEADS: dict[str, Direction] = {
    "ForMaskedLM": "bidirectional",
    "ForPreTraining": "bidirectional",
    "ForCausalLM": "causal",
    "LMHeadModel": "causal",
}
_BARE = "AutoModel"
_RUNS = Path("runs")
_MOST_NAMED = 3


@dataclass(frozen=True)
class ModelPlace:
    """A model that was found, and what it is.

    Attributes:
        name: The name it was asked for by.
        folder: Where its files lie: an export, a Hugging Face folder, or a checkpoint.
        direction: Its attention direction.
        predicts: `next`, `masked` or `masked_next`: where the logits of a token stand.
        auto_class: The class of transformers that loads it.
        has_head: Whether it has a language-model head, so that it can score and not only embed.
        model_digest: The digest of its weights, computed from its files.
        is_ours: Whether it is an export of seqpair.
        is_proven: Whether every file is the one that an export proved against the trained model.
        as_class: For a checkpoint, the objective that it is read as; empty for anything else.
        remark: What has to be known to read its figures; empty if nothing.
    """

    name: str
    folder: Path
    direction: Direction
    predicts: str
    auto_class: str
    has_head: bool
    model_digest: str
    is_ours: bool
    is_proven: bool = False
    as_class: str = ""
    remark: str = ""

    @property
    def short_name(self) -> str:
        """The name as one folder's name: of a member's export or checkpoint with the study, else without slashes."""
        folder = self.folder.resolve()
        if self.as_class and folder.parent.name:
            run = folder.parent.parent
            return f"{run.parent.name}-{run.name}-{folder.name}"
        if self.is_ours and folder.name.startswith("export") and folder.parent.name:
            return f"{folder.parent.parent.name}-{folder.parent.name}"
        given = Path(self.name)
        return (given.name if given.is_dir() else self.name).replace("/", "--")


def find_model(name: str | Path, as_class: str | None = None) -> ModelPlace:
    """Find a model, read what it is, and compare its files with what its record says of them.

    Args:
        name: An export, a checkpoint, a run's folder (its export, else its newest checkpoint), a Hugging Face
            folder, or a name on the hub, with `@revision` if wanted.
        as_class: For a checkpoint that was trained with `hybrid`: `mntp` (the default) or `clm`. A run's folder
            then stands for its newest checkpoint.

    Raises:
        EvaluationError: There is no such model, a file is not the one that was exported, or the model is of a kind
            that cannot be used; the message names the nearest folder that can.
        UnsafeModelError: It is a pickle, has code of its own, or names files outside its folder.
        CheckpointError: The checkpoint is damaged.
        ExportError: `as_class` is not what was trained, or was given for an export, which has one class.
    """
    folder = Path(name).expanduser()
    if folder.suffix in PICKLES and not folder.is_dir():
        raise pickled(folder)
    folder = _inside(folder, as_class) if folder.is_dir() else _download(str(name))
    if _is_checkpoint(folder):
        return _checkpoint(str(name), folder, as_class)
    if as_class is not None:
        raise ExportError("an export has one class already", seen=as_class, fix="leave the choice out")
    weights = _require_files(folder)
    require_safe_files(folder)
    config = _config(folder)
    if (folder / EXPORT_RECORD).is_file():
        record = read_export_record(folder)
        proven = require_recorded(folder, record)
        _require_no_code(folder, config)
        direction: Direction = record["direction"]
        digest, auto = file_digest(folder / WEIGHTS_NAME), _AUTO_CLASSES[direction]
        trained = OBJECTIVES.get(record["objective"])  # an objective of one's own may not be in the table here
        remark = "" if trained is None else trained.remark
        return ModelPlace(
            str(name), folder, direction, record["predicts"], auto, True, digest, True, proven, remark=remark
        )
    direction, auto = _kind(folder, config)
    predicts = config.get(PREDICTS_KEY, "next" if direction == "causal" else "masked")
    return ModelPlace(str(name), folder, direction, predicts, auto, auto != _BARE, weights_digest(weights), False)


def _inside(folder: Path, as_class: str | None) -> Path:
    """Return the model that a folder is, or the one that a run's folder stands for."""
    if (folder / CONFIG_NAME).is_file() or _is_checkpoint(folder):
        return folder
    if as_class is None and (folder / EXPORT_FOLDER / CONFIG_NAME).is_file():
        return folder / EXPORT_FOLDER
    if (folder / CHECKPOINTS_FOLDER).is_dir():
        return checkpoint_at(folder)
    near = _models_below(folder)
    if near:
        raise _no_model(f"{folder} is not a model itself", near)
    return folder  # what it lacks is said where its files are looked for


def _checkpoint(name: str, folder: Path, as_class: str | None) -> ModelPlace:
    manifest = read_checkpoint_manifest(folder)
    objective = exported_objective(last_objective(manifest), as_class)
    path, wanted = folder / MODEL_NAME, manifest.files[MODEL_NAME].sha256
    seen = file_digest(path) if path.is_file() else "no such file"
    if seen != wanted:
        raise damaged(folder, MODEL_NAME, seen=f"SHA-256 {seen}", expected=f"SHA-256 {wanted}")
    # The plan fixes what the weights compute (window, RoPE bases), the objective how they are read.
    digest = sha256_json([seen, manifest.plan_digest, objective.name])
    auto = _AUTO_CLASSES[objective.direction]
    return ModelPlace(
        name,
        folder,
        objective.direction,
        objective.predicts,
        auto,
        has_head=True,
        model_digest=digest,
        is_ours=False,
        as_class=objective.name,
        remark=objective.remark,
    )


def nearest_model(name: str | Path) -> list[Path]:
    """Return the models that a mistyped path may mean: each part that is not there is replaced by the nearest name."""
    path = Path(name).expanduser()
    for start in (path, _RUNS / path):
        found, matched = Path(start.anchor or "."), 0
        for part in start.parts[1:] if start.anchor else start.parts:
            step = found / part
            if not step.is_dir():
                names = [folder.name for folder in found.iterdir() if folder.is_dir()] if found.is_dir() else []
                close = difflib.get_close_matches(part, names, n=1, cutoff=0.5)
                if not close:
                    break
                step = found / close[0]
            found, matched = step, matched + 1
        if matched and _is_model(found):
            return [found]
        if matched and (below := _models_below(found)):
            return below
    return []


def _is_checkpoint(folder: Path) -> bool:
    # A store has a manifest too, and a Hugging Face folder may.
    return (
        (folder / MANIFEST_NAME).is_file() and (folder / MODEL_NAME).is_file() and not (folder / CONFIG_NAME).exists()
    )


def _is_model(folder: Path) -> bool:
    return any((folder / part).exists() for part in (CONFIG_NAME, MANIFEST_NAME, CHECKPOINTS_FOLDER))


def _models_below(folder: Path) -> list[Path]:
    """Return the first models in a folder's folders, two levels deep: a study's exports, else its runs."""
    patterns = (f"*/{CONFIG_NAME}", f"*/*/{CONFIG_NAME}", f"*/{MANIFEST_NAME}", f"*/{CHECKPOINTS_FOLDER}")
    for pattern in patterns:
        found = sorted(path.parent for path in itertools.islice(folder.glob(pattern), 200))
        if found:
            return found[:_MOST_NAMED]
    return []


def _no_model(problem: str, near: list[Path], seen: object = None) -> EvaluationError:
    meant = f"did you mean {' or '.join(map(str, near))}? " if near else ""
    return EvaluationError(
        problem,
        seen=seen,
        allowed="an export, a checkpoint, a run's folder, a Hugging Face folder, or a name on the hub",
        fix=f"{meant}list a run's checkpoints with `seqpair checkpoints`, make an export with `seqpair export`",
    )


def _download(name: str) -> Path:
    """Return the local folder of a hub name, fetched if it is not there yet."""
    repository, _, revision = name.partition("@")
    near = nearest_model(name)
    if name.startswith((".", "/", "~")) or repository.count("/") > 1 or not repository or near:
        raise _no_model("there is no such model folder", near, seen=name)
    require_transformers(EvaluationError, "evaluating a model of the hub")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    options: dict[str, Any] = {"revision": revision or None}
    try:
        folder = Path(snapshot_download(repository, allow_patterns=[*SMALL_FILES, "*.safetensors"], **options))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(repository, allow_patterns=[*SMALL_FILES, WEIGHT_PATTERNS[1]], **options))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise EvaluationError(
            "this model is not a folder here, and the hub did not provide it",
            seen=f"{name}: {str(error).splitlines()[0]}",
            allowed="a folder of an export or of a Hugging Face model, or a name on the hub",
            fix="check the spelling and the connection; without a network give a folder",
        ) from error
    return folder


def _require_files(folder: Path) -> list[Path]:
    """Return the weight files of a folder that has all that a model needs."""
    weights = sorted(path for pattern in WEIGHT_PATTERNS for path in folder.glob(pattern))
    missing = []
    if not (folder / CONFIG_NAME).is_file():
        missing.append(CONFIG_NAME)
    if not any(True for pattern in TOKENIZER_FILES for _ in folder.glob(pattern)):
        missing.append("a tokenizer (tokenizer.json)")
    if not weights and (pickle := first_pickle(folder)) is not None:
        raise pickled(pickle)
    if not weights:
        missing.append("weights (model.safetensors)")
    if missing:
        raise EvaluationError(
            "this folder is not a model that can be evaluated",
            seen=f"{folder} has no " + ", no ".join(missing),
            allowed="an export, a checkpoint, a run's folder, or a Hugging Face folder",
            fix="make one with `seqpair export`, or save model and tokenizer with `save_pretrained`",
        )
    safe = [path for path in weights if path.suffix == ".safetensors"]
    return safe or weights


def _config(folder: Path, name: str = CONFIG_NAME) -> dict[str, Any]:
    """Return what a file of settings says; nothing where there is none."""
    path = folder / name
    return read_json(path, EvaluationError, "save the model again, or put back a good copy", missing_ok=True)


def _require_no_code(folder: Path, config: dict[str, Any]) -> None:
    path = folder / CONFIG_NAME
    if "auto_map" not in config:
        path, config = folder / "tokenizer_config.json", _config(folder, "tokenizer_config.json")
    if "auto_map" in config:
        raise UnsafeModelError(
            "a model with code of its own cannot be used: its code is never run",
            seen=f"auto_map in {path}",
            allowed="a text encoder (masked language model) or a text decoder (causal) that transformers knows",
        )


def _kind(folder: Path, config: dict[str, Any]) -> tuple[Direction, str]:
    """Return the direction and the class that a configuration names."""
    _require_no_code(folder, config)
    require_transformers(EvaluationError, "evaluating a Hugging Face model")
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    kind, classes = str(config.get("model_type")), config.get("architectures") or []
    is_text = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES or kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if config.get("is_encoder_decoder") or not is_text:
        raise EvaluationError(
            "a model of this kind cannot be evaluated",
            seen=f"{folder}: model_type {kind}",
            allowed="a text encoder (masked language model) or a text decoder (causal) that transformers knows",
        )
    for ending, direction in _HEADS.items():
        if classes and classes[0].endswith(ending):
            return direction, _AUTO_CLASSES[direction]
    causal_only = kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES or bool(config.get("is_decoder"))
    return ("causal" if causal_only else "bidirectional"), _BARE
