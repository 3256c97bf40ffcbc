"""A grid of settings over seeds: every run is kept when it is done, and the dev rows choose the setting.

Each finished run is a file `<key>.json`, named by a digest of its sets, setting and seed, so that the same call resumes
after an interruption. A setting's dev score is the mean over its seeds; of equal settings the earlier one is chosen.
An item's value is the mean over the seeds. The standard error of a result is over the choice of items; the deviation
between seeds is a figure of its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file

from seqpair.errors import EvaluationError
from seqpair.evaluate.finetune.loop import EncodedSet, TunedRun, encode_other, encode_set, predict, tune
from seqpair.evaluate.finetune.metrics import (
    all_metrics,
    constant_guess,
    is_mean_of_rows,
    row_values,
    undefined_note,
)
from seqpair.evaluate.finetune.model import TunedModel, head_pooling, tuned_model
from seqpair.evaluate.finetune.sets import LabelledSet, Transfer, translated
from seqpair.evaluate.finetune.settings import TuneSetting
from seqpair.evaluate.results import ItemOutcome, standard_error
from seqpair.evaluate.task import TaskOutcome
from seqpair.files import replacing_file, sha256_json, write_json
from seqpair.models.text_model import TextModel
from seqpair.recipe.objectives import Direction
from seqpair.text import note

RECORD_VERSION = 1
BOOTSTRAP_SAMPLES = 400
TEXT_SAMPLES = 100
Watch = Callable[[float, float], None]


@dataclass(frozen=True)
class RunRecord:
    """What is kept of a run.

    Attributes:
        setting, seed: What it was.
        dev: Dev metrics of each set at the best look.
        reported: The metrics on each set's reported rows.
        guesses: Each set's guesses on them, in the rows' order.
        steps, best_step, stopped_early, failed, losses: As `TunedRun`.
    """

    setting: TuneSetting
    seed: int
    dev: dict[str, dict[str, float]]
    reported: dict[str, dict[str, float]]
    guesses: dict[str, list[Any]]
    steps: int
    best_step: int
    stopped_early: bool
    failed: str
    losses: list[float]


@dataclass(frozen=True)
class GridResult:
    """A grid's runs and the setting that the dev rows chose.

    Attributes:
        sets: The sets, encoded.
        runs: Every run.
        chosen: The runs of the chosen setting, one a seed.
        table: Each setting with its mean dev score, or `None` where all its runs failed.
        weights: The file with the weights of the chosen setting's best run, if they were kept.
        others: The sets that were answered without being learned.
    """

    sets: list[EncodedSet]
    runs: list[RunRecord]
    chosen: list[RunRecord]
    table: list[tuple[TuneSetting, float | None]]
    weights: Path | None = None
    others: list[EncodedSet] = field(default_factory=list)

    @property
    def best(self) -> RunRecord:
        """The chosen setting's run with the best dev score."""
        return max(self.chosen, key=lambda run: _score(self.sets, run))


def dev_score(sets: Sequence[EncodedSet], run: RunRecord) -> float | None:
    """Return what chooses: the mean over the sets of their own dev metric; `None` for a run that failed."""
    if run.failed:
        return None
    return math.fsum(run.dev[one.labelled.name][one.labelled.chooses] for one in sets) / len(sets)


def _score(sets: Sequence[EncodedSet], run: RunRecord) -> float:
    """Return `dev_score`, below all others for a run that failed."""
    score = dev_score(sets, run)
    return -math.inf if score is None else score


def tune_grid(
    model: TextModel,
    labelled: Sequence[LabelledSet],
    settings: Sequence[TuneSetting],
    seeds: Sequence[int],
    work: Path,
    watch: Watch,
    *,
    transfers: Sequence[Transfer] = (),
    keep_weights: bool = False,
) -> GridResult:
    """Run all settings with all seeds, or take what is there, and choose.

    Args:
        model: The model to start from.
        labelled: One set, or several that one model learns together.
        settings: The grid; all have one `max_tokens`.
        seeds: The seeds.
        work: Where the runs are kept.
        watch: Called with the training rows done, and how many there are at most.
        transfers: Other sets, answered by each run's heads.
        keep_weights: Whether the weights of the chosen setting's best run stay in `work`.

    Raises:
        EvaluationError: All runs failed.
    """
    max_tokens = settings[0].max_tokens
    grid = _Grid(model, [encode_set(model, one, max_tokens) for one in labelled], work)
    grid.add_transfers(transfers, max_tokens)
    for one in (*grid.sets, *(other for _, other in grid.others)):
        _say_what_was_cut(one)
    rows = sum(len(one.train) for one in grid.sets)
    total = float(sum(rows * setting.epochs for setting in settings) * len(seeds))
    done, runs, table = 0.0, [], []
    for setting in settings:
        own = []
        for seed in seeds:
            own.append(grid.run(setting, seed, partial(_shifted, watch, done, total), keep_weights=keep_weights))
            done += rows * setting.epochs
            watch(done, total)
        runs += own
        table.append((setting, _mean([score for run in own if (score := dev_score(grid.sets, run)) is not None])))
        grid.prune(_chosen(runs, table))
    chosen = _chosen(runs, table)
    if not chosen:
        raise EvaluationError(
            "every run of the grid failed", seen=runs[0].failed, fix="try lower rates, as the grid `published` has"
        )
    result = GridResult(grid.sets, runs, chosen, table, others=[other for _, other in grid.others])
    if not keep_weights:
        return result
    weights = grid.weights_of(result.best)
    if not weights.is_file():  # the runs were made by a call that kept no weights
        grid.record_of(result.best).unlink()
        grid.run(result.best.setting, result.best.seed, partial(_shifted, watch, 0.0, total), keep_weights=True)
    return replace(result, weights=weights)


def _say_what_was_cut(one: EncodedSet) -> None:
    for part in ("train", "dev", "reported"):
        cut = one.counts.get(f"{part}_truncated_rows", 0)
        if cut:
            rows, tokens, lost = (one.counts[f"{part}_{name}"] for name in ("rows", "cut_tokens", "lost_labels"))
            also = f", and {lost:,} labels with them" if lost else ""
            note(f"{one.labelled.name}: {cut:,} of {rows:,} {part} rows were cut, by {tokens:,} tokens{also}")


def _shifted(watch: Watch, before: float, total: float, more: float) -> None:
    watch(before + more, total)


def _mean(scores: Sequence[float]) -> float | None:
    return math.fsum(scores) / len(scores) if scores else None


def _chosen(runs: Sequence[RunRecord], table: Sequence[tuple[TuneSetting, float | None]]) -> list[RunRecord]:
    """Return the runs of the best setting so far that did not fail; the first of equal settings."""
    # max() keeps the first of equal scores, which is the earlier setting.
    done = [(setting, score) for setting, score in table if score is not None]
    if not done:
        return []
    best = max(done, key=lambda entry: entry[1])[0]
    return [run for run in runs if run.setting == best and not run.failed]


class _Grid:
    """The runs on disk: a record each, and the weights that may yet be wanted."""

    def __init__(self, model: TextModel, sets: Sequence[EncodedSet], work: Path) -> None:
        self.model, self.sets, self.work = model, list(sets), work
        self.others: list[tuple[Transfer, EncodedSet]] = []
        self._common: list[Any] = [RECORD_VERSION, model.model_digest, [one.labelled.digest for one in sets]]

    def add_transfers(self, transfers: Sequence[Transfer], max_tokens: int) -> None:
        by_name = {one.labelled.name: one for one in self.sets}
        for transfer in transfers:
            other = encode_other(self.model, transfer.labelled, max_tokens, by_name[transfer.head])
            self.others.append((transfer, other))
            self._common.append([transfer.head, transfer.labelled.digest, list(transfer.classes)])

    def record_of(self, run: RunRecord) -> Path:
        return self._path(run.setting, run.seed)

    def weights_of(self, run: RunRecord) -> Path:
        return self.record_of(run).with_suffix(".safetensors")

    def _path(self, setting: TuneSetting, seed: int) -> Path:
        return self.work / f"{sha256_json([*self._common, setting.as_json(), seed])[:24]}.json"

    def run(self, setting: TuneSetting, seed: int, watch: Callable[[float], None], *, keep_weights: bool) -> RunRecord:
        """Return a run's record, from its file or made now; its weights are written before it."""
        # The record is written last: where it exists, the weights that belong to it exist too.
        path = self._path(setting, seed)
        if path.is_file():
            kept = json.loads(path.read_text(encoding="utf-8"))
            return RunRecord(**(kept | {"setting": TuneSetting(**kept["setting"])}))
        made = tune(self.model, self.sets, setting, seed, watch)
        record = self._measured(made, setting, seed)
        self.work.mkdir(parents=True, exist_ok=True)
        if keep_weights and made.model is not None:
            with replacing_file(path.with_suffix(".safetensors")) as file:
                save_file({name: value.detach().cpu().clone() for name, value in made.model.state_dict().items()}, file)
        write_json(path, asdict(record))
        return record

    def _measured(self, made: TunedRun, setting: TuneSetting, seed: int) -> RunRecord:
        reported: dict[str, dict[str, float]] = {}
        guesses: dict[str, list[Any]] = {}
        for one in self.sets if made.model is not None else ():
            own = predict(self.model, made.model, one, "reported", setting.precision)  # type: ignore[arg-type]
            name = one.labelled.name
            guesses[name] = own
            reported[name] = all_metrics(one.labelled, [row.label for row in one.labelled.reported], own)
        for transfer, one in self.others if made.model is not None else ():
            head = transfer.head
            raw = predict(self.model, made.model, one, "reported", setting.precision, head)  # type: ignore[arg-type]
            own = [translated(transfer, guess) for guess in raw]
            guesses[transfer.labelled.name] = own
            gold = [row.label for row in transfer.labelled.reported]
            reported[transfer.labelled.name] = all_metrics(transfer.labelled, gold, own)
        return RunRecord(
            setting, seed, made.dev, reported, guesses, *made.steps, made.stopped_early, made.failed, list(made.losses)
        )

    def prune(self, chosen: Sequence[RunRecord]) -> None:
        """Remove the weights of runs that can no longer be the best one of the best setting."""
        best = max(chosen, key=lambda run: _score(self.sets, run), default=None)
        for file in self.work.glob("*.safetensors"):
            if best is None or file != self.weights_of(best):
                file.unlink()


def load_weights(model: TextModel, result: GridResult) -> TunedModel:
    """Return the tuned model of a result whose weights were kept.

    Raises:
        EvaluationError: They were not.
    """
    if result.weights is None:
        raise EvaluationError("the weights of this grid were not kept", fix="tune again with the weights kept")
    setting = result.best.setting
    tuned = tuned_model(
        model,
        [one.labelled for one in result.sets],
        replace(setting, head_start="fresh"),  # every weight is loaded below
        seed=0,
    )
    tuned.load_state_dict(load_file(result.weights))
    return tuned.eval()


def restarted(model: TextModel, result: GridResult) -> TextModel:
    """Return a model whose backbone is that of a result's best run; its head is dropped.

    Raises:
        EvaluationError: The result kept no weights.
    """
    run = [result.best.setting.as_json(), result.best.seed]
    digest = sha256_json([model.model_digest, [one.labelled.digest for one in result.sets], *run])
    return model.with_network(load_weights(model, result).backbone, model_digest=digest, has_head=False)


def tuned_outcome(result: GridResult, name: str, direction: Direction) -> TaskOutcome:
    """Return what a grid says about one of its sets, learned or only answered."""
    one = next(one for one in [*result.sets, *result.others] if one.labelled.name == name)
    is_learned = one in result.sets
    labelled = one.labelled
    gold = [row.label for row in labelled.reported]
    guesses = [run.guesses[name] for run in result.chosen]
    items = measured_items(labelled, guesses)
    figures = {
        f"{metric}_mean": value for metric, value in _means([run.reported[name] for run in result.chosen]).items()
    }
    if is_learned:
        dev = _means([run.dev[name] for run in result.chosen])
        figures |= {f"dev_{metric}_mean": value for metric, value in dev.items()}
    values = [run.reported[name][labelled.metric] for run in result.chosen]
    if len(values) > 1:
        figures["seed_standard_deviation"] = float(np.std(values, ddof=1))
    figures |= {count: float(value) for count, value in one.counts.items()}
    figures |= {
        "runs": float(len(result.runs)),
        "failed_runs": float(sum(bool(run.failed) for run in result.runs)),
        "stopped_early_runs": float(sum(run.stopped_early for run in result.runs)),
    }
    chosen = result.chosen[0].setting
    settings: dict[str, Any] = {
        "chosen": chosen.as_json() | {"pooling": head_pooling(chosen.pooling, direction)},
        "grid": [{"setting": setting.label, "dev": score} for setting, score in result.table],
        "learned_with": [other.labelled.name for other in result.sets if other.labelled.name != name],
        "values_by_seed": {str(run.seed): value for run, value in zip(result.chosen, values, strict=True)},
        "data_digest": labelled.digest,
    }
    if labelled.kind == "classes":
        settings["labels"] = list(labelled.labels)
    error = standard_error(items) if is_mean_of_rows(labelled) else bootstrap_error(labelled, gold, guesses)
    notes = [labelled.note] if labelled.note else []
    notes += [note for note in (undefined_note(labelled, gold, guesses),) if note]
    if is_learned and not labelled.test:
        notes.append("Reported on the dev rows, which also chose the setting and when to stop.")
    return TaskOutcome(
        items,
        settings,
        chance=constant_guess(labelled, gold),
        figures=figures,
        note=" ".join(notes),
        value=math.fsum(values) / len(values),
        standard_error=error,
    )


def measured_items(labelled: LabelledSet, guesses: Sequence[Sequence[Any]]) -> list[ItemOutcome]:
    """Return an outcome for each reported row: its mean value over the seeds, and each seed's guess."""
    rows = labelled.reported
    gold = [row.label for row in rows]
    by_seed = [row_values(labelled, gold, own) for own in guesses]
    return [
        ItemOutcome(
            id=row.id,
            value=math.fsum(values[index] for values in by_seed) / len(by_seed),
            detail={"gold": shown(labelled, row.label), "guesses": [shown(labelled, own[index]) for own in guesses]},
            cluster=row.cluster,
        )
        for index, row in enumerate(rows)
    ]


def shown(labelled: LabelledSet, label: Any) -> Any:
    """Return a label or guess as a reader knows it."""
    if labelled.kind == "classes":
        return labelled.labels[label]
    if labelled.kind == "tags":
        return [labelled.labels[tag] for tag in label]
    if labelled.kind == "number":
        return float(f"{float(label):.9g}")
    return label if isinstance(label, str) else list(label)


def bootstrap_error(labelled: LabelledSet, gold: Sequence[Any], guesses: Sequence[Sequence[Any]]) -> float | None:
    """Return the standard deviation of the metric, a mean over seeds, over samples of the items with replacement."""
    if len(gold) < 2:
        return None
    # The same samples for every seed's guesses, so that what the seeds share is not averaged away.
    draw, values = np.random.default_rng(0), []
    for _ in range(TEXT_SAMPLES if labelled.kind == "text" else BOOTSTRAP_SAMPLES):
        places = draw.integers(0, len(gold), len(gold)).tolist()
        sample = [gold[place] for place in places]
        own = [all_metrics(labelled, sample, [guess[place] for place in places])[labelled.metric] for guess in guesses]
        values.append(math.fsum(own) / len(own))
    return float(np.std(values, ddof=1))


def _means(metrics: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: math.fsum(one[name] for one in metrics) / len(metrics) for name in metrics[0]}
