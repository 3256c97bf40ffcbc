"""One fine-tuning run: a setting, a seed, one set or several.

Every row, word or answer of a step counts the same, however the step is cut into microbatches. With several sets the
batches of all sets are mixed in one order, each batch from one set, and the mean of the sets' dev metrics decides.
Source: Mosaic's DecoupledAdamW, as ModernBERT's GLUE runs had it: the decay is a share of the weight and does not
scale with the learning rate. Differs: gradients are clipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from seqpair.evaluate.finetune.metrics import all_metrics, best_span
from seqpair.evaluate.finetune.model import TunedModel, tuned_model
from seqpair.evaluate.finetune.rows import NOT_A_LABEL, RowMaker, TunedRow
from seqpair.evaluate.finetune.sets import LOG_PROB, OUTSIDE, Example, LabelledSet
from seqpair.evaluate.finetune.settings import TuneSetting
from seqpair.models.generate import complete_texts
from seqpair.models.text_model import TextModel, length_batches
from seqpair.train.step import autocast

BETAS = (0.9, 0.98)
EPSILON = 1e-6
TEXT_BATCH_TOKENS = 2048
MOST_NEW_TOKENS = 256
_MARGIN_TOKENS = 8
Watch = Callable[[float], None]


@dataclass(frozen=True)
class EncodedSet:
    """A set and its rows' ids, made once for all runs of one length.

    Attributes:
        labelled: The set.
        train, dev, reported: The rows.
        center, spread: Mean and standard deviation of a number's training labels; the head learns the standardised.
        counts: Rows made, cut, and labels lost, by part.
    """

    labelled: LabelledSet
    train: list[TunedRow]
    dev: list[TunedRow]
    reported: list[TunedRow]
    center: float
    spread: float
    counts: dict[str, int]


@dataclass
class TunedRun:
    """What a run gave.

    Attributes:
        model: With the weights of its best look at the dev rows.
        dev: The dev metrics of each set then.
        steps: Steps taken, and the step of that look.
        stopped_early: Whether it stopped before its last epoch.
        failed: Why it gave nothing, or empty.
        losses: The mean training loss before each look.
    """

    model: TunedModel | None
    dev: dict[str, dict[str, float]]
    steps: tuple[int, int] = (0, 0)
    stopped_early: bool = False
    failed: str = ""
    losses: tuple[float, ...] = ()


def encode_set(model: TextModel, labelled: LabelledSet, max_tokens: int) -> EncodedSet:
    """Make all rows of a set."""
    counts: dict[str, int] = {}

    def part(name: str, examples: Sequence[Example], *, to_learn: bool = False) -> list[TunedRow]:
        maker = RowMaker(model, max_tokens)
        rows = maker.make(examples, labelled.kind, to_learn=to_learn)
        counts.update(
            {
                f"{name}_rows": maker.rows,
                f"{name}_truncated_rows": maker.truncated_rows,
                f"{name}_cut_tokens": maker.cut_tokens,
                f"{name}_lost_labels": maker.lost_labels,
            }
        )
        return rows

    numbers = [float(example.label) for example in labelled.train] if labelled.kind == "number" else [0.0]
    spread = float(np.std(numbers)) or 1.0
    return EncodedSet(
        labelled,
        part("train", labelled.train, to_learn=True),
        part("dev", labelled.dev),
        part("reported", labelled.reported),
        float(np.mean(numbers)),
        spread,
        counts,
    )


def encode_other(model: TextModel, labelled: LabelledSet, max_tokens: int, like: EncodedSet) -> EncodedSet:
    """Make the reported rows of a set that is not learned from; its numbers are scaled as those of `like`."""
    maker = RowMaker(model, max_tokens)
    rows = maker.make(labelled.reported, labelled.kind)
    counts = {
        "reported_rows": maker.rows,
        "reported_truncated_rows": maker.truncated_rows,
        "reported_cut_tokens": maker.cut_tokens,
        "reported_lost_labels": maker.lost_labels,
    }
    return EncodedSet(labelled, [], [], rows, like.center, like.spread, counts)


def collate(rows: Sequence[TunedRow], pad_id: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids, token types and mask (B, T), padded on the right."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), longest), pad_id)
    types, mask = torch.zeros_like(ids), torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = torch.from_numpy(row.ids)
        types[index, : len(row.ids)] = torch.from_numpy(row.types)
        mask[index, : len(row.ids)] = 1
    return ids.to(device), types.to(device), mask.to(device)


def _loss_sum(one: EncodedSet, outputs: Tensor, rows: Sequence[TunedRow]) -> Tensor:
    """Return the summed loss of some rows."""
    kind, device = one.labelled.kind, outputs.device
    if kind == "classes":
        return nn.functional.cross_entropy(
            outputs, torch.tensor([row.label for row in rows]).to(device), reduction="sum"
        )
    if kind == "number":
        gold = torch.tensor([(row.label - one.center) / one.spread for row in rows], dtype=torch.float32).to(device)
        return nn.functional.mse_loss(outputs[:, 0], gold, reduction="sum")
    if kind in ("tags", "text"):
        gold = torch.full(outputs.shape[:2], NOT_A_LABEL)
        for index, row in enumerate(rows):
            gold[index, : len(row.ids)] = torch.from_numpy(row.label)
        if kind == "text":  # a token is read one position before it stands
            outputs, gold = outputs[:, :-1], gold[:, 1:]
        return nn.functional.cross_entropy(
            outputs.flatten(0, 1), gold.flatten().to(device), ignore_index=NOT_A_LABEL, reduction="sum"
        )
    # The softmax of an answer's begin and end runs over the positions of a row, so padding must get no share of it.
    # Rows whose answer was cut off are not here: `RowMaker.make` leaves them out of the rows to learn from.
    real = torch.arange(outputs.shape[1])[None] < torch.tensor([len(row.ids) for row in rows])[:, None]
    outputs = outputs.masked_fill(~real.to(device).unsqueeze(-1), -1e9)
    gold = torch.tensor([row.label for row in rows]).to(device)
    halves = [nn.functional.cross_entropy(outputs[..., side], gold[:, side], reduction="sum") for side in (0, 1)]
    return (halves[0] + halves[1]) / 2


def _votes(one: EncodedSet, rows: Sequence[TunedRow]) -> int:
    """Return how many labels some rows have."""
    if one.labelled.kind not in ("tags", "text"):
        return len(rows)
    return max(1, sum(int((row.label != NOT_A_LABEL).sum()) for row in rows))


def _budget(model: TextModel, one: EncodedSet) -> int:
    """Return the most places of a microbatch; every place of a `text` row gives logits of the whole vocabulary."""
    return min(model.batch_tokens, TEXT_BATCH_TOKENS) if one.labelled.kind == "text" else model.batch_tokens


def _batches(sets: Sequence[EncodedSet], setting: TuneSetting, seed: int, epoch: int) -> list[tuple[int, list[int]]]:
    """Return an epoch's batches, each of one set, in an order of (seed, epoch) alone."""
    # A generator per epoch: an order that depends on nothing that happened in earlier epochs.
    draw, found = np.random.default_rng([seed, epoch]), []
    for number, one in enumerate(sets):
        order = draw.permutation(len(one.train)).tolist()
        found += [(number, order[at : at + setting.batch_rows]) for at in range(0, len(order), setting.batch_rows)]
    return [found[index] for index in draw.permutation(len(found))] if len(sets) > 1 else found


def _schedule(step: int, steps: int, warmup_frac: float) -> float:
    """Return the rate's factor of a step, from 0: up over the warm-up, then down to zero, linearly."""
    warmup = max(1, round(warmup_frac * steps))
    return (step + 1) / warmup if step < warmup else max(0.0, (steps - step) / max(1, steps - warmup))


def _optimizer(tuned: TunedModel, setting: TuneSetting, steps: int) -> tuple[Any, Any]:
    # AdamW takes rate x decay of a weight; divided by the peak rate, the decay is a share at the peak.
    groups = [
        {
            "params": [p for p in tuned.parameters() if p.requires_grad and (p.ndim > 1) is matrices],
            "weight_decay": decay,
        }
        for matrices, decay in ((True, setting.weight_decay / setting.learning_rate), (False, 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, lr=setting.learning_rate, betas=BETAS, eps=EPSILON)
    factor = partial(_schedule, steps=steps, warmup_frac=setting.warmup_frac)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


class _Trainer:
    """The state of one run."""

    def __init__(self, model: TextModel, sets: Sequence[EncodedSet], setting: TuneSetting, seed: int) -> None:
        self.loaded, self.sets, self.setting, self.seed = model, sets, setting, seed
        self.tuned = tuned_model(
            model,
            [one.labelled for one in sets],
            setting,
            seed,
        )
        self.epoch_steps = len(_batches(sets, setting, seed, 0))
        self.optimizer, self.scheduler = _optimizer(self.tuned, setting, self.epoch_steps * setting.epochs)
        self.steps = 0

    def step(self, number: int, places: Sequence[int]) -> float:
        """Take one step; return its mean loss."""
        one, total = self.sets[number], 0.0
        rows = [one.train[place] for place in places]
        votes = _votes(one, rows)
        # Each microbatch adds its sum over the labels of the whole step: the gradient does not depend on the cut.
        for batch in length_batches([len(row.ids) for row in rows], _budget(self.loaded, one)):
            loss = self._summed_loss(one, [rows[index] for index in batch]) / votes
            loss.backward()
            total += float(loss.detach())
        nn.utils.clip_grad_norm_(self.tuned.parameters(), self.setting.clip_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        return total

    def look(self) -> dict[str, dict[str, float]]:
        """Return the dev metrics of all sets."""
        found = {}
        for one in self.sets:
            if one.labelled.kind == "text":
                found[one.labelled.name] = {LOG_PROB: self._log_prob(one)}
                continue
            guesses = predict(self.loaded, self.tuned, one, "dev", self.setting.precision)
            found[one.labelled.name] = all_metrics(one.labelled, [row.label for row in one.labelled.dev], guesses)
        return found

    @torch.no_grad()
    def _log_prob(self, one: EncodedSet) -> float:
        """Return the mean log-probability of the dev targets' tokens."""
        self.tuned.eval()
        total = 0.0
        for batch in length_batches([len(row.ids) for row in one.dev], _budget(self.loaded, one)):
            total -= float(self._summed_loss(one, [one.dev[index] for index in batch]))
        return total / _votes(one, one.dev)

    def _summed_loss(self, one: EncodedSet, rows: Sequence[TunedRow]) -> Tensor:
        """Return the summed loss of some rows of a set, as a scalar."""
        with autocast(torch.device(self.loaded.device), active=self.setting.precision == "bf16"):
            outputs = self.tuned(one.labelled.name, *collate(rows, self.loaded.pad_id, self.loaded.device))
        return _loss_sum(one, outputs, rows)

    def decides(self, metrics: dict[str, dict[str, float]]) -> float:
        """Return what early stopping compares."""
        return float(np.mean([metrics[one.labelled.name][one.labelled.chooses] for one in self.sets]))


def tune(model: TextModel, sets: Sequence[EncodedSet], setting: TuneSetting, seed: int, watch: Watch) -> TunedRun:
    """Fine-tune a copy of a model's backbone with heads of its own.

    A run whose loss is no longer finite is given up and says so; another setting may do.

    Args:
        model: The model; it is not changed.
        sets: The sets, encoded for this model.
        setting: How.
        seed: Draws the head, the order and dropout.
        watch: Called with the training rows done so far.
    """
    devices = [torch.device(model.device)] if model.device.startswith("cuda") else []
    # The caller's random state is put back, so that a run does not depend on the runs before it.
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        return _tune(_Trainer(model, sets, setting, seed), watch)


def _tune(trainer: _Trainer, watch: Watch) -> TunedRun:
    setting, tuned = trainer.setting, trainer.tuned
    looks = {round(trainer.epoch_steps * (n + 1) / setting.checks_per_epoch) for n in range(setting.checks_per_epoch)}
    best, kept, waited, rows_done = TunedRun(None, {}), {}, 0, 0
    losses: list[float] = []
    means: list[float] = []
    for epoch in range(setting.epochs):
        for at, (number, places) in enumerate(_batches(trainer.sets, setting, trainer.seed, epoch), 1):
            tuned.train()
            losses.append(trainer.step(number, places))
            rows_done += len(places)
            watch(rows_done)
            if at not in looks:
                continue
            means.append(float(np.mean(losses)))
            losses.clear()
            if not np.isfinite(means[-1]):
                return TunedRun(None, {}, (trainer.steps, 0), failed="the loss was no longer finite")
            metrics = trainer.look()
            waited += 1
            if not best.dev or trainer.decides(metrics) > trainer.decides(best.dev):
                best, waited = TunedRun(tuned, metrics, (0, trainer.steps)), 0
                # A copy, because the next step writes into the same tensors; on the CPU, to save device memory.
                kept = {name: value.detach().to("cpu", copy=True) for name, value in tuned.state_dict().items()}
            if waited >= setting.patience_checks:
                break
        if waited >= setting.patience_checks:
            break
    tuned.load_state_dict(kept)
    best.stopped_early = trainer.steps < trainer.epoch_steps * setting.epochs
    best.steps, best.losses = (trainer.steps, best.steps[1]), tuple(means)
    return best


@torch.no_grad()
def outputs_of(
    model: TextModel, tuned: TunedModel, name: str, rows: Sequence[TunedRow], precision: str = "fp32"
) -> Iterator[tuple[int, Tensor]]:
    """Yield each row's index and outputs on the CPU, in any order: (C,), or (T, C) of its own length."""
    tuned.eval()
    for batch in length_batches([len(row.ids) for row in rows], model.batch_tokens):
        with autocast(torch.device(model.device), active=precision == "bf16"):
            outputs = tuned(name, *collate([rows[index] for index in batch], model.pad_id, model.device)).cpu()
        for place, index in enumerate(batch):
            yield index, outputs[place] if outputs.ndim == 2 else outputs[place, : len(rows[index].ids)]


def predict(
    model: TextModel,
    tuned: TunedModel,
    one: EncodedSet,
    part: Literal["dev", "reported"],
    precision: str = "fp32",
    head: str = "",
) -> list[Any]:
    """Return a guess for each row of a part: a class's index, a number, a tag's index a word, or a text.

    A word that was cut is guessed to be outside, or else of the first tag. The head is the set's own, or another's.
    """
    labelled = one.labelled
    if labelled.kind == "text":
        return write_texts(model, tuned.backbone, labelled, part)
    rows: list[TunedRow] = getattr(one, part)
    examples: Sequence[Example] = getattr(labelled, part)
    outside = labelled.labels.index(OUTSIDE) if OUTSIDE in labelled.labels else 0
    guesses: list[Any] = [None] * len(rows)
    for index, outputs in outputs_of(model, tuned, head or labelled.name, rows, precision):
        row = rows[index]
        if labelled.kind == "classes":
            guesses[index] = int(outputs.argmax())
        elif labelled.kind == "number":
            guesses[index] = float(outputs[0]) * one.spread + one.center
        elif labelled.kind == "tags":
            tags = outputs.argmax(-1).tolist()
            guesses[index] = tuple(outside if place < 0 else tags[place] for place in row.word_places)
        else:
            guesses[index] = best_span(outputs, row.places, examples[index].pair or "")
    return guesses


def write_texts(model: TextModel, tuned: Any, labelled: LabelledSet, part: Literal["dev", "reported"]) -> list[str]:
    """Return what a tuned model writes for each row of a part; at most a few tokens more than any training target."""
    longest = max(len(ids) for ids in model.encode([row.label for row in labelled.train]))
    limit = min(MOST_NEW_TOKENS, longest + _MARGIN_TOKENS, model.max_tokens // 2)
    writer = model.with_network(tuned.eval(), model_digest="")  # named by its run's record, not here
    maker = RowMaker(model, model.max_tokens)
    with torch.no_grad():
        return complete_texts(writer, [maker.prompt(row) for row in getattr(labelled, part)], (), limit).texts
