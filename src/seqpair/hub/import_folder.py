"""A Hugging Face folder as a member's starting point: its plan, weights and tokenizer in our form, and their proof.

The proof compares, in fp32: the ids that `AutoTokenizer` gives texts, without specials, with ours; and the logits (of a
folder without a language-model head the last hidden states) of every real token of padded batches of rows `[CLS]`
content, with `[SEP]` for encoders, among them rows longer than both sides of the window.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqpair.data.tokenizer.tokenizer import Tokenizer, load_tokenizer
from seqpair.errors import HubFolderError
from seqpair.files import sha256_file, sha256_json
from seqpair.hub.config import CONFIG_NAME, Predicts, local_attention
from seqpair.hub.folder_config import HEADLESS_CLASSES, FolderConfig, read_folder_config
from seqpair.hub.library import require_transformers
from seqpair.hub.native import NativeModel
from seqpair.hub.verify import (
    TOLERANCE,
    Verification,
    batches,
    checked_row_tokens,
    difference,
    load_hub_model,
    rows_of_training,
    texts_to_check,
)
from seqpair.hub.weight_files import read_tensors, weight_files
from seqpair.hub.weights import from_hub
from seqpair.nn.model import LanguageModel
from seqpair.nn.rope import RopeBases
from seqpair.recipe.objectives import Direction
from seqpair.recipe.plan import ModelPlan, Plan

_USUAL_PADDING = 64
_REBASING_TAG = "ext"


@dataclass(frozen=True)
class ImportedModel:
    """A model read from a Hugging Face folder, or from a checkpoint as if it were one.

    Attributes:
        folder: Where it was read.
        hub_class: The Hugging Face class of its direction with a language-model head.
        model_plan: Its shape, vocabulary, window and constants.
        rope: The RoPE bases of its global and local layers.
        direction: The attention direction of its class.
        predicts: Which output predicts which token: `next`, `masked` or `masked_next`.
        seq_len: The longest row its configuration names, in tokens with specials.
        model: Its parameters in our names, fp32, on the CPU; without a head only the backbone's.
        tokenizer: Its tokenizer, padded to the rows of the token table.
        digest: SHA-256 over the configuration, the weights' and the tokenizer's files.
        notes: What differs from training here and changes nothing now, such as dropouts.
        has_head: Whether it has a language-model head.
        states_window: Whether the window is the one that the caller stated, instead of the one that its class computes.
    """

    folder: Path
    hub_class: str
    model_plan: ModelPlan
    rope: RopeBases
    direction: Direction
    predicts: Predicts
    seq_len: int
    model: dict[str, Tensor]
    tokenizer: Tokenizer
    digest: str
    notes: tuple[str, ...]
    has_head: bool = True
    states_window: bool = False

    @property
    def headless(self) -> tuple[str, ...]:
        """Return the names of the parameters that the folder does not have: those of the language-model head."""
        return tuple(name for name in _parameters(self.model_plan) if name not in self.model)


def read_hub_folder(folder: Path, window_tokens: int | None = None) -> ImportedModel:
    """Read a folder of the encoder or the decoder class, with its language-model head or without.

    Args:
        folder: An export of ours, or a downloaded model: `config.json`, the weights as safetensors (one
            file, or several with their index) and `tokenizer.json`.
        window_tokens: The window that it was trained with, where its class computes another one.

    Raises:
        HubFolderError: A file is missing or damaged, or the model cannot be expressed here.
        DataError: The tokenizer is none that seqpair can use.
    """
    config, notes = read_folder_config(folder), []
    if window_tokens is not None and window_tokens != (computed := config.window_tokens()):
        config = config.trained_with(window_tokens)
        notes.append(f"the window is {window_tokens} tokens, as stated; its class computes {computed}")
    plan = config.model_plan()
    files = weight_files(folder)
    tensors = read_tensors(files)
    if config.has_head and not config.tie_word_embeddings and "decoder.weight" not in tensors:
        raise HubFolderError(
            "the folder's output matrix is missing",
            seen="tie_word_embeddings false, and no decoder.weight",
            allowed="tied weights",
            fix="use a model with tie_word_embeddings",
        )
    states_window = bool(notes)
    notes += [*config.notes(), *_precision_note(tensors)]
    given = from_hub(tensors, plan.shape.layers, config.direction, has_head=config.has_head)
    state = {name: values.float() for name, values in given.items()}
    _require_usable(state, plan)
    tokenizer = _tokenizer_of(folder, config)
    named = [folder / CONFIG_NAME, *files, folder / "tokenizer.json"]
    return ImportedModel(
        folder=folder,
        hub_class=config.hub_class,
        model_plan=plan,
        rope=config.rope(),
        direction=config.direction,
        predicts=config.predicts,
        seq_len=config.max_position_embeddings,
        model=state,
        tokenizer=tokenizer,
        digest=sha256_json({path.name: sha256_file(path) for path in named}),
        notes=tuple(notes),
        has_head=config.has_head,
        states_window=states_window,
    )


def _parameters(plan: ModelPlan) -> dict[str, torch.Size]:
    """Return the shapes of a model's parameters by name."""
    with torch.device("meta"):
        return {name: values.shape for name, values in LanguageModel(plan).state_dict().items()}


def with_blank_head(state: Mapping[str, Tensor], plan: ModelPlan) -> dict[str, Tensor]:
    """Return parameters with zeros for those that are missing, for the use of a backbone alone."""
    missing = {name: torch.zeros(shape) for name, shape in _parameters(plan).items() if name not in state}
    return {**state, **missing}


def require_fits(plan: Plan, imported: ImportedModel, tokenizer: Tokenizer) -> None:
    """Check that a member's plan trains the very model that was read.

    The shape, the vocabulary, the window, the pattern of global layers, the norms' epsilon, the tokenizer
    and the RoPE bases must agree. A first phase with the tag `ext` may change the bases: that is what
    context extension does.

    Args:
        plan: The member's plan.
        imported: What was read from the folder.
        tokenizer: The tokenizer that the study's stores were made with.

    Raises:
        HubFolderError: Something differs; the message lists everything that does.
    """
    phase, theirs = plan.phases[0], imported.model_plan
    pairs: dict[str, tuple[object, object]] = {
        **{f"size.{name}": (getattr(plan.model.shape, name), value) for name, value in theirs.shape},
        "vocabulary rows": (plan.model.vocab_size, theirs.vocab_size),
        "model.window_tokens": (plan.model.window_tokens, theirs.window_tokens),
        "model.global_every": (plan.model.global_every, theirs.global_every),
        "model.norm_eps": (plan.model.norm_eps, theirs.norm_eps),
        "tokenizer digest": (tokenizer.digest[:16], imported.tokenizer.digest[:16]),
    }
    if phase.tag != _REBASING_TAG:
        pairs["rope_global_theta"] = (phase.rope_global_theta, imported.rope.global_theta)
        pairs["rope_local_theta"] = (phase.rope_local_theta, imported.rope.local_theta)
    wrong = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    if not wrong:
        return
    raise HubFolderError(
        f"the recipe's member {plan.member!r} is not the model in {imported.folder}",
        seen="; ".join(f"{name} {_shown(ours)}" for name, (ours, _) in wrong.items()),
        allowed="; ".join(f"{name} {_shown(value)}" for name, (_, value) in wrong.items()),
        fix=_advice(wrong, imported, plan),
    )


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _advice(wrong: Iterable[str], imported: ImportedModel, plan: Plan) -> str:
    """Return which keys of the recipe to change."""
    shape, phase = imported.model_plan.shape, plan.phases[0].name
    keys = [name for name in wrong if name.startswith("model.")]
    if any(name.startswith("size.") for name in wrong):
        values = ", ".join(f"{name}: {value}" for name, value in shape)
        keys.append(f"size (to {{{values}}})")
    if {"vocabulary rows", "tokenizer digest"} & set(wrong):
        padding = imported.tokenizer.pad_vocab_to
        keys.append(f"data.tokenizer (to {{path: {imported.folder}, pad_vocab_to: {padding}}})")
    keys += [f"{name} of phase {phase!r}" for name in wrong if name.startswith("rope_")]
    given = plan.start.path if plan.start is not None else imported.folder
    stated = f"{{model: {given}, window_tokens: {plan.model.window_tokens}}}"
    trained = f"; or, if the model was trained with that window, members.{plan.member}.from (to {stated})"
    return "set in the recipe: " + ", ".join(keys) + (trained if "model.window_tokens" in wrong else "")


def _precision_note(tensors: Mapping[str, Tensor]) -> list[str]:
    kinds = sorted({str(values.dtype).removeprefix("torch.") for values in tensors.values()} - {"float32"})
    return [f"the weights are stored as {', '.join(kinds)} and read as float32"] if kinds else []


def _require_usable(state: Mapping[str, Tensor], plan: ModelPlan) -> None:
    """Check every parameter's shape against the plan, and that it is finite."""
    wanted = _parameters(plan)
    other = [
        f"{name} {tuple(values.shape)} for {tuple(wanted[name])}"
        for name, values in state.items()
        if values.shape != wanted[name]
    ]
    if other:
        raise HubFolderError(
            "the folder's weights do not have the shapes that its config.json states",
            seen="; ".join(other[:4]),
            fix="use a folder whose files belong together",
        )
    broken = sorted(name for name, values in state.items() if not bool(torch.isfinite(values).all()))
    if broken:
        raise HubFolderError("the folder's weights are not finite", seen=broken[:4], fix="use another model")


def _tokenizer_of(folder: Path, config: FolderConfig) -> Tokenizer:
    """Load the folder's tokenizer, padded so that it has a row for every row of the token table."""
    tokenizer = load_tokenizer(folder, _USUAL_PADDING)
    if tokenizer.vocab_size == config.vocab_size:
        return tokenizer
    if tokenizer.entries > config.vocab_size:
        raise HubFolderError(
            "the folder's tokenizer has more entries than the model has rows",
            seen=f"{tokenizer.entries} entries, vocab_size {config.vocab_size}",
            fix="use a folder whose files belong together",
        )
    multiples = (m for m in range(1, config.vocab_size + 1) if config.vocab_size % m == 0)
    padding = next(m for m in multiples if -(-tokenizer.entries // m) * m == config.vocab_size)
    return load_tokenizer(folder, padding)


ATTENTION = "sdpa"
_CHECKED_TEXTS = 12


@torch.no_grad()
def verify_import(
    imported: ImportedModel, texts: Sequence[str] | None = None, *, tolerance: float = TOLERANCE
) -> Verification:
    """Compare our model with the folder's, as transformers loads it, with the stated window if one was stated.

    Args:
        imported: What `read_hub_folder` read.
        texts: Real texts; the study's held-out text is best. `None` takes this package's source.
        tolerance: The largest absolute difference of logits, or of hidden states, that is let through.

    Raises:
        HubFolderError: Ids or outputs differ, the folder does not load, or transformers is missing.
    """
    transformers = require_transformers(HubFolderError, "starting from a Hugging Face folder")
    plan, tokenizer = imported.model_plan, imported.tokenizer
    row_tokens = checked_row_tokens(imported.seq_len, plan.window_tokens)
    texts = texts_to_check(texts, tokenizer, row_tokens)[:_CHECKED_TEXTS]
    _require_ids(transformers.AutoTokenizer.from_pretrained(imported.folder, local_files_only=True), texts, imported)
    model = _load_class(imported)
    native = NativeModel(plan, with_blank_head(imported.model, plan), imported.direction, imported.rope)
    outputs = "logits" if imported.has_head else "hidden states"
    worst = 0.0
    lengths: list[int] = []
    for batch in batches(texts, row_tokens, plan.vocab_size):
        rows = rows_of_training(batch, tokenizer, imported.direction, row_tokens)
        ids, mask = _padded(rows, tokenizer.specials.pad)
        out = model(input_ids=ids, attention_mask=mask.long())
        seen = out.logits if imported.has_head else out.last_hidden_state  # (B, T, V) or (B, T, D)
        expected = native.logits(rows) if imported.has_head else native.row_states(rows)
        worst = max(worst, *(difference(seen[i, mask[i]], values) for i, values in enumerate(expected)))
        lengths.extend(len(row) for row in rows)
    if not worst <= tolerance:
        raise HubFolderError(
            "the model read from the folder does not compute what transformers computes from it",
            seen=f"max |difference| of {outputs} {worst:.3g} ({ATTENTION})",
            allowed=f"at most {tolerance:g} over {sum(lengths)} tokens of {len(lengths)} texts",
            fix="report this with the folder's config.json and the version of transformers",
        )
    return Verification(
        max_abs_difference=worst,
        tolerance=tolerance,
        checked_texts=len(lengths),
        checked_tokens=sum(lengths),
        longest_tokens=max(lengths),
        window_tokens=plan.window_tokens,
        attention=(ATTENTION,),
    )


def _load_class(imported: ImportedModel) -> Any:
    """Load the folder with its class, which must find all that we read from it and nothing more of the backbone."""
    attention = None
    if imported.states_window:
        attention = local_attention(imported.model_plan.window_tokens, imported.direction)
    model, problems = load_hub_model(
        imported.folder, imported.direction, ATTENTION, has_head=imported.has_head, attended=attention
    )
    if not imported.has_head:
        # The heads of other tasks are left over; of the backbone nothing may be.
        left = [name for name in problems.pop("unexpected_keys", []) if name.startswith(("layers.", "embeddings."))]
        problems |= {"unexpected_keys": left} if left else {}
    expected = imported.hub_class if imported.has_head else HEADLESS_CLASSES[imported.direction][0]
    if problems or type(model).__name__ != expected:
        raise HubFolderError(
            "transformers does not load the folder as it should",
            seen=f"{type(model).__name__} with {problems}",
            allowed=f"{expected} with every parameter found",
            fix="use a folder whose files belong together",
        )
    return model


def _require_ids(auto_tokenizer: object, texts: Sequence[str], imported: ImportedModel) -> None:
    """Check that users of the folder get our ids for a text, specials aside."""
    theirs = auto_tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]  # type: ignore[operator]
    for text, ours, seen in zip(texts, imported.tokenizer.encode(texts), theirs, strict=True):
        if ours.tolist() != seen:
            raise HubFolderError(
                "the folder's tokenizer gives other ids in transformers than here",
                seen=f"{seen[:12]} for {text[:60]!r}",
                allowed=f"{ours.tolist()[:12]}",
                fix="report this with the folder's tokenizer.json and tokenizer_config.json",
            )


def _padded(rows: Sequence[np.ndarray], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids (B, T) padded on the right, and where they are real (B, T) bool."""
    ids = torch.full((len(rows), max(map(len, rows))), pad_id)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.from_numpy(row)
    ends = torch.tensor([len(row) for row in rows])
    return ids, torch.arange(ids.shape[1])[None] < ends[:, None]
