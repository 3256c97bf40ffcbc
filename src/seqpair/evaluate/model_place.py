"""Finding a model by name, and what its configuration says it is, before any weights are loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqpair.errors import EvaluationError
from seqpair.files import sha256_file, sha256_json
from seqpair.hub.config import PREDICTS_KEY
from seqpair.hub.export import RECORD_NAME, read_export_record
from seqpair.hub.library import require_transformers
from seqpair.recipe.objectives import Direction

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
_HEADS: dict[str, tuple[Direction, str]] = {
    "ForMaskedLM": ("bidirectional", "AutoModelForMaskedLM"),
    "ForPreTraining": ("bidirectional", "AutoModelForMaskedLM"),
    "ForCausalLM": ("causal", "AutoModelForCausalLM"),
    "LMHeadModel": ("causal", "AutoModelForCausalLM"),
}
_BARE = "AutoModel"


@dataclass(frozen=True)
class ModelPlace:
    """A model that was found, and what it is.

    Attributes:
        name: The name it was asked for by.
        folder: Where its files lie.
        direction: Its attention direction.
        predicts: `next`, `masked` or `masked_next`: where the logits of a token stand.
        auto_class: The class of transformers that loads it.
        has_head: Whether it has a language-model head, so that it can score and not only embed.
        model_digest: The digest of its weights.
        is_ours: Whether it is an export of seqpair.
    """

    name: str
    folder: Path
    direction: Direction
    predicts: str
    auto_class: str
    has_head: bool
    model_digest: str
    is_ours: bool

    @property
    def short_name(self) -> str:
        """The name as one folder's name: of `<study>/<member>/export` the member, else without slashes."""
        given = Path(self.name)
        if self.is_ours and given.name.startswith("export") and given.resolve().parent.name:
            return f"{given.resolve().parent.parent.name}-{given.resolve().parent.name}"
        return (given.name if given.is_dir() else self.name).replace("/", "--")


def find_model(name: str | Path) -> ModelPlace:
    """Find a model and read what it is.

    Args:
        name: An export of ours, a Hugging Face folder, or a name on the hub, with `@revision` if wanted.

    Raises:
        EvaluationError: There is no such model, it lacks weights or tokenizer, or is of a kind that cannot be
            evaluated.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = _download(str(name))
    weights = _require_files(folder)
    config = _config(folder)
    if (folder / RECORD_NAME).is_file():
        record = read_export_record(folder)
        auto = "AutoModelForMaskedLM" if record["direction"] == "bidirectional" else "AutoModelForCausalLM"
        digest = record["model_digest"]
        return ModelPlace(str(name), folder, record["direction"], record["predicts"], auto, True, digest, True)
    direction, auto = _kind(folder, config)
    predicts = config.get(PREDICTS_KEY, "next" if direction == "causal" else "masked")
    digest = sha256_json({path.name: sha256_file(path) for path in weights})
    return ModelPlace(str(name), folder, direction, predicts, auto, auto != _BARE, digest, False)


def _download(name: str) -> Path:
    """Return the local folder of a hub name, fetched if it is not there yet."""
    repository, _, revision = name.partition("@")
    looks_local = name.startswith((".", "/", "~")) or repository.count("/") > 1
    if looks_local or not repository:
        raise EvaluationError("there is no such model folder", seen=name, fix="make one with `seqpair export`")
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
            "this model is no folder here, and the hub did not give it",
            seen=f"{name}: {str(error).splitlines()[0]}",
            allowed="a folder of an export or of a Hugging Face model, or a name on the hub",
            fix="check the spelling and the connection; without a network give a folder",
        ) from error
    return folder


def _require_files(folder: Path) -> list[Path]:
    """Return the weight files of a folder that has all that a model needs."""
    weights = sorted(path for pattern in WEIGHT_PATTERNS for path in folder.glob(pattern))
    missing = []
    if not (folder / "config.json").is_file():
        missing.append("config.json")
    if not any(True for pattern in TOKENIZER_FILES for _ in folder.glob(pattern)):
        missing.append("a tokenizer (tokenizer.json)")
    if not weights:
        missing.append("weights (model.safetensors)")
    if missing:
        raise EvaluationError(
            "this folder is no model that can be evaluated",
            seen=f"{folder} has no " + ", no ".join(missing),
            allowed="an export of seqpair or a Hugging Face folder",
            fix="make one with `seqpair export`, or save model and tokenizer with `save_pretrained`",
        )
    safe = [path for path in weights if path.suffix == ".safetensors"]
    return safe or weights


def _config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise EvaluationError(f"{folder / 'config.json'} is not JSON", seen=error) from error
    return config


def _kind(folder: Path, config: dict[str, Any]) -> tuple[Direction, str]:
    """Return the direction and the class that a configuration names."""
    require_transformers(EvaluationError, "evaluating a Hugging Face model")
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    kind, classes = str(config.get("model_type")), config.get("architectures") or []
    is_text = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES or kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if config.get("is_encoder_decoder") or not is_text or "auto_map" in config:
        raise EvaluationError(
            "a model of this kind cannot be evaluated",
            seen=f"{folder}: model_type {kind}" + (", with code of its own" if "auto_map" in config else ""),
            allowed="a text encoder (masked language model) or a text decoder (causal) that transformers knows",
        )
    for ending, (direction, auto) in _HEADS.items():
        if classes and classes[0].endswith(ending):
            return direction, auto
    causal_only = kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES or bool(config.get("is_decoder"))
    return ("causal" if causal_only else "bidirectional"), _BARE
