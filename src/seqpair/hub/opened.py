"""A trained model opened for use, from an export or a checkpoint, in our own form: no transformers needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seqpair.checkpoint.store import load_checkpoint
from seqpair.data.tokenizer.tokenizer import Tokenizer
from seqpair.errors import ExportError, SeqpairError
from seqpair.hub.config import CONFIG_NAME, Predicts
from seqpair.hub.export import checkpoint_at, checkpoint_tokenizer, exported_objective, last_objective
from seqpair.hub.import_folder import read_hub_folder
from seqpair.hub.native import NativeModel
from seqpair.nn.rope import RopeBases


@dataclass(frozen=True)
class OpenedModel:
    """A model with what is needed to give it text.

    Attributes:
        place: Where it was found: the export, or the checkpoint that a run's folder stands for.
        native: The model, its direction and its RoPE bases.
        tokenizer: Its tokenizer.
        predicts: Which output predicts which token: `next`, `masked` or `masked_next`.
        max_tokens: The longest row it was trained on, specials included.
    """

    place: Path
    native: NativeModel
    tokenizer: Tokenizer
    predicts: Predicts
    max_tokens: int


def open_model(path: Path, as_class: str | None = None) -> OpenedModel:
    """Open an export of ours, a Hugging Face folder of the two classes, a checkpoint, or a run's newest one.

    Args:
        path: The folder.
        as_class: For a checkpoint trained with `hybrid`: `mntp` (the default) or `clm`.

    Raises:
        HubFolderError: The folder's model cannot be expressed here.
        CheckpointError: The checkpoint cannot be used.
        ExportError: `as_class` is not what was trained, or was given for an export, which has one class.
    """
    if not path.is_dir():
        raise SeqpairError(
            "there is no such folder",
            seen=path,
            allowed="an export, a checkpoint or a run",
            fix="look with `seqpair checkpoints list`, or make an export with `seqpair export`",
        )
    if (path / CONFIG_NAME).is_file():
        if as_class is not None:
            raise ExportError("an export has one class already", seen=as_class, fix="leave the choice out")
        read = read_hub_folder(path)
        native = NativeModel(read.model_plan, read.model, read.direction, read.rope)
        return OpenedModel(path, native, read.tokenizer, read.predicts, read.seq_len)
    place = checkpoint_at(path)
    loaded = load_checkpoint(place, model_only=True)
    objective = exported_objective(last_objective(loaded.manifest), as_class)
    phase = loaded.manifest.plan.phase(loaded.manifest.phase)
    rope = RopeBases(phase.rope_global_theta, phase.rope_local_theta)
    native = NativeModel(loaded.manifest.plan.model, loaded.model, objective.direction, rope)
    tokenizer = checkpoint_tokenizer(place, loaded.manifest)
    return OpenedModel(place, native, tokenizer, objective.predicts, phase.seq_len)
