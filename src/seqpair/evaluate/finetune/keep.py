"""Writes a tuned model to a folder that loads again, and opens such a folder.

Where a Hugging Face class computes the same outputs, the folder is that class's (`AutoModelForSequenceClassification`
and so on); otherwise it is the backbone alone, which `AutoModel` loads. `head.safetensors` contains the heads in either
case, and `seqpair_finetuned.json` describes them. Nothing is written if the folder, loaded again, gives other outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from seqpair.errors import EvaluationError, ExportError
from seqpair.evaluate.finetune.loop import EncodedSet, collate, predict
from seqpair.evaluate.finetune.model import TaskHead, TunedModel
from seqpair.evaluate.finetune.rows import RowMaker, TunedRow, templates_of
from seqpair.evaluate.finetune.runs import GridResult, load_weights
from seqpair.evaluate.finetune.sets import Example, Kind, LabelledSet
from seqpair.evaluate.finetune.settings import TuneSetting
from seqpair.files import read_json, replacing_folder, write_json
from seqpair.hub.library import require_transformers
from seqpair.models.chat import plain_chat_template
from seqpair.models.open import open_model
from seqpair.models.text_model import TextModel

TUNED_RECORD = "seqpair_finetuned.json"
_HEAD_NAME = "head.safetensors"
_FORMAT_VERSION = 1
_PROBE_ROWS = 12
_TOLERANCE = 1e-4
AUTO_CLASSES: dict[Kind, str] = {
    "classes": "AutoModelForSequenceClassification",
    "number": "AutoModelForSequenceClassification",
    "tags": "AutoModelForTokenClassification",
    "span": "AutoModelForQuestionAnswering",
    "text": "AutoModelForCausalLM",
}
_LAST_LAYERS = ("classifier", "score", "qa_outputs")
RowBatch = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class TunedFolder:
    """A kept model, loaded.

    Attributes:
        loaded: The backbone with its tokenizer.
        tuned: The model with its heads.
        record: What `seqpair_finetuned.json` says.
    """

    loaded: TextModel
    tuned: TunedModel
    record: dict[str, Any]

    def answer(self, name: str, examples: Sequence[Example]) -> list[Any]:
        """Return what a head answers: class or tag names, numbers, or texts; the rows' labels are not read.

        Raises:
            EvaluationError: There is no head of this name, or it was tuned on pairs and these are single texts, or
                the other way round.
        """
        if name not in self.record["sets"]:
            raise EvaluationError("this model has no such head", seen=name, allowed=", ".join(self.record["sets"]))
        about = self.record["sets"][name]
        # Models that were kept before this was recorded take any rows.
        wants = about.get("pairs")
        if wants is not None and any((example.pair is not None) != wants for example in examples):
            raise EvaluationError(
                f"the head {name} was tuned on {'pairs of texts' if wants else 'single texts'}",
                seen="single texts" if wants else "pairs of texts",
                fix="name the key of the second text" if wants else "leave the second text out",
            )
        rows = tuple(_without_label(example, about["kind"]) for example in examples)
        labelled = LabelledSet(name, about["kind"], tuple(about["labels"]), rows, rows)
        made = RowMaker(self.loaded, self.record["setting"]["max_tokens"]).make(rows, labelled.kind)
        guesses = predict(self.loaded, self.tuned, EncodedSet(labelled, [], made, made, 0.0, 1.0, {}), "dev")
        if labelled.kind == "classes":
            return [labelled.labels[guess] for guess in guesses]
        if labelled.kind == "tags":
            return [[labelled.labels[tag] for tag in guess] for guess in guesses]
        return guesses


def _without_label(example: Example, kind: Kind) -> Example:
    """Return a row with a label that fits its form and says nothing."""
    label: Any = {"tags": (0,) * len(example.words), "span": ()}.get(kind, 0)
    return replace(example, label=label, answer_start=-1)


def keep_tuned(model: TextModel, result: GridResult, folder: Path) -> dict[str, Any]:
    """Write the best run's model of a grid, proven by loading it again; return its record.

    Raises:
        EvaluationError: The grid kept no weights, or the folder exists.
        ExportError: The folder would compute something else; nothing was written.
    """
    if folder.exists():
        raise EvaluationError("the folder of the tuned model exists", seen=folder, fix="choose another --out")
    tuned = load_weights(model, result)
    if "text" in tuned.kinds.values():
        return _keep_writer(model, tuned, result, folder)
    _unscale(tuned, result.sets)
    setting, first = result.best.setting, result.sets[0]
    batch = _probe(model, first)
    hub, reason = None, "it has more than one head"
    if len(result.sets) == 1:
        hub, reason = hub_model(tuned, first.labelled, model.pad_id, setting.dropout, batch)
    tokenizer, makes_rows = _tokenizer(model, first.labelled)
    record = _record(model, result, tuned, hub, reason) | {"tokenizer_makes_the_rows": makes_rows}
    with replacing_folder(folder) as partial:
        (hub if hub is not None else tuned.backbone).save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        heads = {name: value.detach().cpu().contiguous() for name, value in tuned.heads.state_dict().items()}
        save_file(heads, partial / _HEAD_NAME)
        write_json(partial / TUNED_RECORD, record)
        record["largest_difference"] = _prove(
            partial, tuned, first.labelled, batch, model.device, is_hub=hub is not None
        )
        write_json(partial / TUNED_RECORD, record)
    return record


def _record(model: TextModel, result: GridResult, tuned: TunedModel, hub: Any, reason: str) -> dict[str, Any]:
    setting = result.best.setting
    return {
        "format_version": _FORMAT_VERSION,
        "started_from": model.name,
        "started_from_digest": model.model_digest,
        "direction": model.direction,
        "class": type(hub if hub is not None else tuned.backbone).__name__,
        "hub_class": None if hub is None else AUTO_CLASSES[result.sets[0].labelled.kind],
        "no_hub_class_because": reason,
        "pooling": tuned.pooling,
        "setting": setting.as_json(),
        "seed": result.best.seed,
        "dev": result.best.dev,
        "sets": {
            one.labelled.name: {
                "kind": one.labelled.kind,
                "labels": list(one.labelled.labels),
                "outputs": one.labelled.outputs,
                "pairs": one.labelled.train[0].pair is not None,
                "data_digest": one.labelled.digest,
            }
            for one in result.sets
        },
    }


@torch.no_grad()
def _unscale(tuned: TunedModel, sets: Sequence[EncodedSet]) -> None:
    """Let the heads of numbers give the labels' own scale."""
    for one in sets:
        if one.labelled.kind == "number":
            # spread * (W h + b) + center, folded into the last layer, so that the folder needs no rule of its own
            last = tuned.heads[one.labelled.name].out
            last.weight.mul_(one.spread)
            last.bias.mul_(one.spread).add_(one.center)


def _probe(model: TextModel, one: EncodedSet) -> RowBatch:
    """Return a batch of rows of different lengths."""
    # Every step-th row by length: short and long ones, so that padding is part of what is compared.
    rows: list[TunedRow] = sorted(one.dev, key=lambda row: len(row.ids))
    step = max(1, len(rows) // _PROBE_ROWS)
    return collate(rows[::step][:_PROBE_ROWS], model.pad_id, model.device)


def _tokenizer(model: TextModel, labelled: LabelledSet) -> tuple[Any, bool]:
    """Return a tokenizer whose template makes the rows of tuning, and whether it does."""
    tokenizer = copy.deepcopy(model.tokenizer)
    if model.direction == "causal":
        from tokenizers.processors import TemplateProcessing

        single, double = templates_of(model)
        known = {
            token: tokenizer.convert_ids_to_tokens(token) for token in {*double.begin, *double.middle, *double.end}
        }
        begin, middle, end = ([known[token] for token in part] for part in (double.begin, double.middle, double.end))
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=[*begin, "$A", *(known[token] for token in single.end)],
            pair=[*begin, "$A", *middle, "$B", *end],
            special_tokens=[(name, token) for token, name in known.items()],
        )
    tokenizer.padding_side = "right"
    return tokenizer, _makes_rows(tokenizer, model, labelled)


def _makes_rows(tokenizer: Any, model: TextModel, labelled: LabelledSet) -> bool:
    maker = RowMaker(model, model.max_tokens)
    examples = labelled.dev[:_PROBE_ROWS]
    plain = [replace(example, label=0) for example in examples]
    for example, row in zip(plain, maker.make(plain, "classes"), strict=True):
        pair = () if example.pair is None else (example.pair,)
        if tokenizer(example.text, *pair, verbose=False)["input_ids"] != row.ids.tolist():
            return False
    return True


def _prove(
    folder: Path, tuned: TunedModel, labelled: LabelledSet, batch: RowBatch, device: str, *, is_hub: bool
) -> float:
    """Load a folder as its users will, and compare.

    Raises:
        ExportError: Something differs by more than the tolerance.
    """
    with torch.no_grad():
        ours = tuned(labelled.name, *batch)
        again = open_tuned(folder, device=device).tuned(labelled.name, *batch)
    differences = [float((ours - again)[batch[2].bool()].abs().max() if ours.ndim == 3 else (ours - again).abs().max())]
    if is_hub:
        transformers = require_transformers(ExportError, "keeping a tuned model")
        auto = getattr(transformers, AUTO_CLASSES[labelled.kind])
        model = auto.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval().to(device)
        differences.append(largest_difference(tuned, model, labelled, batch))
    if not max(differences) <= _TOLERANCE:
        raise ExportError(
            "the folder of the tuned model would compute something else; nothing was written",
            seen=f"outputs differ by {max(differences):.3g}",
            allowed=f"at most {_TOLERANCE}",
        )
    return max(differences)


def _keep_writer(model: TextModel, tuned: TunedModel, result: GridResult, folder: Path) -> dict[str, Any]:
    """Write a decoder that learned to write; its tokenizer is the one it had, with the template of chats if any."""
    record = _record(model, result, tuned, tuned.backbone, "")
    tokenizer = copy.deepcopy(model.tokenizer)
    if result.sets[0].labelled.has_chats and not getattr(tokenizer, "chat_template", None):
        tokenizer.chat_template = plain_chat_template(RowMaker(model, model.max_tokens).begin)
    ids, _, mask = _probe(model, result.sets[0])
    with replacing_folder(folder) as partial, torch.no_grad():
        tuned.backbone.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        again = open_model(partial, device=model.device)
        options = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
        real = mask.bool()
        difference = float((tuned.backbone(**options).logits - again.network(**options).logits)[real].abs().max())
        if not difference <= _TOLERANCE:
            raise ExportError(
                "the tuned decoder would compute something else; nothing was written",
                seen=difference,
                fix="report this: it is a fault of seqpair",
            )
        record["largest_difference"] = difference
        write_json(partial / TUNED_RECORD, record)
    return record


def open_tuned(folder: Path, *, device: str = "auto") -> TunedFolder:
    """Load a kept model with its heads.

    Raises:
        EvaluationError: The folder is none that `keep_tuned` wrote, or a decoder that writes texts.
    """
    path = folder / TUNED_RECORD
    record = read_json(path, EvaluationError, "tune the model again", missing_ok=True)
    if record.get("format_version") != _FORMAT_VERSION or not (folder / _HEAD_NAME).is_file():
        raise EvaluationError(
            "this folder contains no tuned model with a head",
            seen=folder,
            allowed="what `seqpair finetune` keeps; a decoder that writes texts is opened as any model",
        )
    logging = require_transformers(EvaluationError, "opening a tuned model").utils.logging
    loud = logging.get_verbosity()
    logging.set_verbosity_error()  # the head in the file is no part of the backbone, and is loaded below
    try:
        loaded = open_model(folder, device=device)
    finally:
        logging.set_verbosity(loud)
    setting, weights = TuneSetting(**record["setting"]), load_file(folder / _HEAD_NAME)
    backbone = loaded.network
    width, eps = int(backbone.config.hidden_size), float(getattr(backbone.config, "norm_eps", 1e-5))
    draw = torch.Generator().manual_seed(0)
    heads = {
        name: TaskHead(width, about["outputs"], setting.head, setting.dropout, 0.02, draw, eps)
        for name, about in record["sets"].items()
    }
    kinds = {name: about["kind"] for name, about in record["sets"].items()}
    tuned = TunedModel(backbone, heads, kinds, record["pooling"], is_causal=record["direction"] == "causal")
    tuned.heads.load_state_dict(weights)
    return TunedFolder(loaded, tuned.eval().to(loaded.device), record)


def hub_model(
    tuned: TunedModel, labelled: LabelledSet, pad_id: int, dropout: float, batch: RowBatch
) -> tuple[Any, str]:
    """Return the class's model that computes the same, or `None` and the reason why there is none.

    Args:
        tuned: The tuned model, in evaluation mode.
        labelled: The set of its head.
        pad_id: What rows are padded with.
        dropout: Of the head, for those who train it further.
        batch: Ids, token types and mask (B, T) of rows of different lengths.
    """
    transformers = require_transformers(EvaluationError, "keeping a tuned model")
    auto = getattr(transformers, AUTO_CLASSES[labelled.kind])
    config = hub_config_of(tuned, labelled, pad_id, dropout)
    try:
        model = auto.from_config(config).eval().to(batch[0].device)
    except (ValueError, AttributeError) as error:
        return None, f"transformers has no such class for it: {str(error).splitlines()[0][:120]}"
    fault = _fill(model, tuned, labelled.name)
    if fault:
        return None, fault
    difference = largest_difference(tuned, model, labelled, batch)
    if not difference <= _TOLERANCE:
        name = type(model).__name__
        return None, f"{name} computes something else: outputs differ by {difference:.3g} ({tuned.pooling} pooling)"
    return model, ""


def hub_config_of(tuned: TunedModel, labelled: LabelledSet, pad_id: int, dropout: float) -> Any:
    """Return the backbone's configuration with what the head needs."""
    config = copy.deepcopy(tuned.backbone.config)
    names = labelled.labels if labelled.kind in ("classes", "tags") else ("LABEL_0", "LABEL_1")[: labelled.outputs]
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    problems = {"number": "regression", "classes": "single_label_classification"}
    config.problem_type = problems.get(labelled.kind)
    if config.pad_token_id is None:
        config.pad_token_id = pad_id
    if hasattr(config, "classifier_pooling") and tuned.pooling != "last":
        config.classifier_pooling = tuned.pooling
    wanted = {"classifier_bias": True, "classifier_activation": "gelu", "classifier_dropout": dropout}
    for name, value in wanted.items():
        if hasattr(config, name):
            setattr(config, name, value)
    return config


@torch.no_grad()
def _fill(model: Any, tuned: TunedModel, name: str) -> str:
    """Put all weights in their places; return what does not fit, or nothing."""
    base = model.base_model
    if base is model:
        return f"{type(model).__name__} has no part that is the backbone"
    # Not strict: the tuned backbone may have parts that the class leaves out, such as a pooler; what the class has must
    # all be there.
    missing = base.load_state_dict(tuned.backbone.state_dict(), strict=False).missing_keys
    if missing:
        return f"{type(model).__name__} has other weights: {missing[0]}"
    head, own = tuned.heads[name], {f"{model.base_model_prefix}.{one}" for one, _ in base.named_parameters()}
    ours = {"head.dense.weight": head.dense.weight, "head.norm.weight": head.norm.weight} if head.dense else {}
    for last in _LAST_LAYERS:
        ours |= {f"{last}.weight": head.out.weight, f"{last}.bias": head.out.bias}
    used = set()
    for place, parameter in model.named_parameters():
        if place in own:
            continue
        if place in ours and ours[place].shape == parameter.shape:
            parameter.copy_(ours[place])
            used.add(place)
        elif place.endswith(".bias"):
            parameter.zero_()  # a bias of zero computes what our layer without one does
        else:
            return f"the head of {type(model).__name__} is another one: it has {place}"
    wanted = {"head.dense.weight", "head.norm.weight"} if head.dense else set()
    if not wanted <= used or not any(place.endswith(".weight") for place in used - wanted):
        return f"the head of {type(model).__name__} is another one"
    return ""


@torch.no_grad()
def outputs_of_hub_model(model: Any, kind: Kind, batch: RowBatch, *, takes_types: bool) -> Tensor:
    """Return what a class gives: (B, C), or (B, T, C) for tags and answers."""
    ids, types, mask = batch
    options = {"token_type_ids": types} if takes_types else {}
    out = model(input_ids=ids, attention_mask=mask, **options)
    outputs: Tensor = torch.stack((out.start_logits, out.end_logits), -1) if kind == "span" else out.logits
    return outputs.float()


@torch.no_grad()
def largest_difference(tuned: TunedModel, model: Any, labelled: LabelledSet, batch: RowBatch) -> float:
    """Return the largest difference of outputs at real tokens; infinite for another shape."""
    ours = tuned(labelled.name, *batch)
    theirs = outputs_of_hub_model(model, labelled.kind, batch, takes_types=tuned.takes_types)
    if ours.shape != theirs.shape:
        return float("inf")
    if ours.ndim == 3:
        ours, theirs = ours[batch[2].bool()], theirs[batch[2].bool()]
    return float((ours - theirs).abs().max())
