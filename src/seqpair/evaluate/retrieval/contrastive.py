"""Contrastive fine-tuning through sentence-transformers: one protocol for encoders and decoders.

For pairs the loss is the cross-entropy of a query's own positive among all positives and hard negatives of its batch,
by cosine times 20, in mini-batches (Gao et al. 2021, arXiv 2101.06983); no batch contains a text twice. For scored
pairs it is CoSENT's. The learning rate rises over a twentieth of the steps, then falls linearly to zero; AdamW without
decay. Every rate starts from the same weights with the same batches, and the best one on the dev set is kept.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from seqpair.errors import EvaluationError
from seqpair.evaluate.retrieval.embedders import (
    Embedder,
    SentenceEmbedder,
    keep_embedder,
    open_for_tuning,
    read_tuned_record,
    require_sentence_transformers,
)
from seqpair.evaluate.retrieval.outcomes import HIGHEST, ScoredPair, cosines_of, spearman
from seqpair.evaluate.retrieval.sets import TrainingPair, hold_out
from seqpair.evaluate.retrieval.with_mteb import search_set
from seqpair.files import JsonLines, sha256_json
from seqpair.models.text_model import TextModel
from seqpair.text import note

SCALE = 20.0
WARMUP_FRAC = 0.05
VERSION = 1
POOLINGS = ("default", "mean", "last", "cls")
PAIRS_PER_LIMIT = 20
"""How many training pairs a limited run keeps for each item of its limit."""
Watch = Callable[[float, float], None]


PUBLISHED: dict[str, Any] = {
    "learning_rates": (1e-5, 2e-5, 3e-5, 5e-5, 8e-5, 1e-4, 3e-4, 1e-3),
    "batch_pairs": 1024,
    "mini_batch_pairs": 64,
    "train_tokens": 0,
    "train_pairs": 1_250_000,
}
"""What `--grid published` sets: the batch, the pairs and the uncut length of arXiv 2507.11412 on MS MARCO's triplets.

The rates are those that ModernBERT swept, up to 1e-4, the one in that paper's code, 3e-4, and 1e-3 for small models.
"""


@dataclass(frozen=True)
class TuningOptions:
    """Choices of fine-tuning, the same for encoders and decoders.

    Attributes:
        pairs: A file of training pairs; empty takes `retrieval/pairs.jsonl` of the data folder.
        columns: Names of the columns of query, positive and, if there are any, negatives; empty finds them.
        learning_rates: The rates that are tried; the best on the held-out pairs is taken.
        epochs: Times over the pairs.
        batch_pairs: Pairs of a batch; the positives of the others are the negatives of each.
        mini_batch_pairs: Pairs that go through the model at once.
        train_tokens: Tokens that a text is cut to in training; 0 cuts it where the model ends alone.
        train_pairs: Most pairs to train on.
        hard_negatives: Negatives to find for each pair with the model as it is, beside those in the batch.
        tuned_pooling: `mean`, `last` or `cls`; `default` is the mean for encoders and the last token for decoders.
    """

    pairs: str = ""
    columns: str = ""
    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    epochs: int = 1
    batch_pairs: int = 64
    mini_batch_pairs: int = 16
    train_tokens: int = 256
    train_pairs: int = 20_000
    hard_negatives: int = 0
    tuned_pooling: str = "default"

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """Read the choices that are these, and take the rest from the grid; others are left alone.

        Raises:
            EvaluationError: A value is not of its kind or range.
        """
        found: dict[str, Any] = dict(PUBLISHED) if settings.get("grid") == "published" else {}
        for field in fields(cls):
            if field.name in settings:
                found[field.name] = _read(field.name, str(settings[field.name]), getattr(cls, field.name))
        options = cls(**found)
        if options.tuned_pooling not in POOLINGS:
            raise EvaluationError(
                "there is no pooling of this name for fine-tuning",
                seen=repr(options.tuned_pooling),
                allowed=", ".join(POOLINGS),
            )
        return options

    def limited(self, limit: int | None) -> Self:
        """Return the options with no more pairs than a limit of items allows."""
        if limit is None:
            return self
        return type(self)(**asdict(self) | {"train_pairs": min(self.train_pairs, PAIRS_PER_LIMIT * limit)})


def _read(name: str, text: str, default: Any) -> Any:
    if isinstance(default, str):
        return text
    kind = "a rate above 0, or several with commas" if isinstance(default, tuple) else "a whole number"
    try:
        value = tuple(float(part) for part in text.split(",")) if isinstance(default, tuple) else int(text)
    except ValueError as error:
        raise EvaluationError(f"the setting {name} cannot be read", seen=text, allowed=kind) from error
    least = 0 if name in ("hard_negatives", "train_tokens") else 1
    if isinstance(value, tuple) and not all(0 < rate < 1 for rate in value):
        raise EvaluationError(f"the setting {name} is out of range", seen=text, allowed="above 0, below 1")
    if isinstance(value, int) and value < least:
        raise EvaluationError(f"the setting {name} is out of range", seen=value, allowed=f"at least {least}")
    return value


SETTINGS = tuple(field.name for field in fields(TuningOptions))
"""The names of all choices."""


@dataclass(frozen=True)
class Tuned:
    """A fine-tuned embedder: its folder, and its record with the chosen rate and every rate's dev score."""

    folder: Path
    record: dict[str, Any]


@dataclass(frozen=True)
class _Job:
    """What is trained on, and how a trained model is judged."""

    kind: str
    rows: dict[str, list[Any]]
    digest: str
    dev: Callable[[Embedder], float]
    metric: str

    @property
    def row_count(self) -> int:
        return len(next(iter(self.rows.values())))


def tune_on_pairs(
    model: TextModel, pairs: Sequence[TrainingPair], options: TuningOptions, seed: int, kept: Path, watch: Watch
) -> Tuned:
    """Fine-tune on pairs; a twentieth of them is held out, and the rate with the best nDCG@10 there is taken.

    Args:
        model: The model.
        pairs: Query and positive, perhaps negatives.
        options: The user's choices.
        seed: Of the batches.
        kept: The folder in which embedders are kept; the same call finds its own there.
        watch: Called with how many pairs were trained on, of how many, over all rates.

    Raises:
        EvaluationError: The pairs are too few, or no rate gave finite vectors.
    """
    training, dev_set = hold_out(pairs)

    def dev(embedder: Embedder) -> float:
        return search_set(dev_set, embedder).scores["ndcg_at_10"]

    rows = _columns(training)
    if options.hard_negatives:
        rows = _with_hard_negatives(model, rows, options)
    return _tune(model, _Job("pairs", rows, sha256_json(rows), dev, "ndcg_at_10"), options, seed, kept, watch)


def tune_on_scores(
    model: TextModel,
    training: Sequence[ScoredPair],
    dev_pairs: Sequence[ScoredPair],
    options: TuningOptions,
    seed: int,
    kept: Path,
    watch: Watch,
) -> Tuned:
    """Fine-tune on scored pairs; the rate with the best Spearman correlation on the dev pairs is taken.

    The arguments are as for `tune_on_pairs`.
    """
    texts = [text for pair in dev_pairs for text in (pair.first, pair.second)]

    def dev(embedder: Embedder) -> float:
        vectors = embedder.embed(texts).vectors
        return spearman(cosines_of(vectors[::2], vectors[1::2]), [pair.score for pair in dev_pairs])

    rows: dict[str, list[Any]] = {
        "sentence1": [pair.first for pair in training],
        "sentence2": [pair.second for pair in training],
        "score": [pair.score / HIGHEST for pair in training],
    }
    return _tune(model, _Job("scores", rows, sha256_json(rows), dev, "spearman"), options, seed, kept, watch)


def _columns(pairs: Sequence[TrainingPair]) -> dict[str, list[Any]]:
    """Return the columns of pairs; negatives only as far as every pair has them."""
    rows: dict[str, list[Any]] = {
        "query": [pair.query for pair in pairs],
        "positive": [pair.positive for pair in pairs],
    }
    shared = min(len(pair.negatives) for pair in pairs)
    if shared == 0 and any(pair.negatives for pair in pairs):
        note("some training pairs have no negatives, so that those of the others are not used")
    for place in range(shared):
        rows[f"negative_{place + 1}"] = [pair.negatives[place] for pair in pairs]
    return rows


def _with_hard_negatives(model: TextModel, rows: dict[str, list[Any]], options: TuningOptions) -> dict[str, Any]:
    """Add, for each pair, the positives of other pairs that the model as it is finds most alike to the query."""
    import numpy as np

    embedder = SentenceEmbedder(open_for_tuning(model, options.tuned_pooling), model.batch_tokens)
    candidates = list(dict.fromkeys(rows["positive"]))
    right: dict[str, set[str]] = {}
    for query, positive in zip(rows["query"], rows["positive"], strict=True):
        right.setdefault(query, set()).add(positive)
    units = [
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
        for vectors, _ in (embedder.embed(rows["query"]), embedder.embed(candidates))
    ]
    # The nearest candidates may all be right for a query; after as many as any query has, enough wrong ones remain.
    most = max(len(own) for own in right.values()) + options.hard_negatives
    if most > len(candidates):
        raise EvaluationError(
            "there are too few texts to find so many hard negatives", seen=options.hard_negatives, allowed=most
        )
    found = []
    for query, vector in zip(rows["query"], units[0], strict=True):
        # One query at a time: all similarities at once are queries x texts. Stable, so that ties have one order.
        order = np.argsort(-(units[1] @ vector), kind="stable")[:most]
        others = [candidates[index] for index in order if candidates[index] not in right[query]]
        found.append(others[: options.hard_negatives])
    start = sum(name.startswith("negative") for name in rows)
    return rows | {
        f"negative_{start + place + 1}": [own[place] for own in found] for place in range(options.hard_negatives)
    }


def _tune(model: TextModel, job: _Job, options: TuningOptions, seed: int, kept: Path, watch: Watch) -> Tuned:
    """Train once for each rate that is not done yet, and keep the best."""
    chosen = {name: value for name, value in asdict(options).items() if name not in ("pairs", "columns")}
    fixed = {"version": VERSION, "model": model.model_digest, "kind": job.kind, "data": job.digest, "seed": seed}
    place = kept / f"{job.kind}-seed{seed}-{sha256_json(fixed | chosen)[:12]}"
    folder = place / "embedder"
    done = read_tuned_record(folder)
    if done is not None and len(done["sweep"]) == len(options.learning_rates):
        return Tuned(folder, done)
    rows = job.row_count
    total = rows * options.epochs * len(options.learning_rates)
    log = JsonLines(place / "sweep.jsonl")
    log.keep(lambda _: True)  # drops the half line of a call that was interrupted while it wrote
    sweep = list(log.rows())
    with contextlib.closing(log):
        for number, rate in enumerate(options.learning_rates):
            if any(row["learning_rate"] == rate for row in sweep):
                continue
            before = number * rows * options.epochs
            trained = open_for_tuning(model, options.tuned_pooling)
            score = _score(
                trained, model, job, options, rate, seed, place, lambda done, at=before: watch(at + done, total)
            )
            row = {"learning_rate": rate, "dev": score}
            if score is not None and all(other["dev"] is None or score > other["dev"] for other in sweep):
                record = fixed | {"options": asdict(options), "metric": job.metric, "chosen": row}
                keep_embedder(trained, model, folder, record | {"sweep": [*sweep, row]})
            sweep.append(row)
            log.append(row)
    record = read_tuned_record(folder)
    if record is None:
        raise EvaluationError("no learning rate gave an embedder", seen=sweep, fix="try lower rates or more pairs")
    return Tuned(folder, record | {"sweep": sweep})


def _score(
    trained: Any,
    model: TextModel,
    job: _Job,
    options: TuningOptions,
    rate: float,
    seed: int,
    place: Path,
    watch: Callable[[float], None],
) -> float | None:
    """Train with one rate and return the dev score; `None` if the weights are not finite."""
    longest = trained.max_seq_length
    trained.max_seq_length = min(options.train_tokens or longest, longest) if longest else options.train_tokens or None
    _train(trained, job, options, rate, seed, place / "trainer", watch)
    score = job.dev(SentenceEmbedder(trained, model.batch_tokens)) if _is_finite(trained) else None
    trained.max_seq_length = longest
    shown = "the weights are not finite" if score is None else f"dev {job.metric} {score:.4f}"
    note(f"learning rate {rate:g}, seed {seed}: {shown}")
    return score


def _loss(trained: Any, job: _Job, options: TuningOptions) -> Any:
    from sentence_transformers.sentence_transformer import losses

    if job.kind == "scores":
        return losses.CoSENTLoss(trained, scale=SCALE)
    # Vectors of the whole batch first, then the gradients piece by piece: the negatives are the batch's and not the
    # mini-batch's, so that a machine with little memory trains on the same loss.
    return losses.CachedMultipleNegativesRankingLoss(trained, scale=SCALE, mini_batch_size=options.mini_batch_pairs)


def _is_finite(trained: Any) -> bool:
    return all(bool(values.isfinite().all()) for values in trained.parameters())


def _train(
    trained: Any,
    job: _Job,
    options: TuningOptions,
    rate: float,
    seed: int,
    work: Path,
    watch: Callable[[float], None],
) -> None:
    """Train in place.

    Raises:
        EvaluationError: The library is not there.
    """
    require_sentence_transformers()
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.training_args import BatchSamplers
    from transformers import TrainerCallback
    from transformers.trainer_callback import PrinterCallback

    class Watching(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_options: Any) -> None:
            watch(min(state.global_step * options.batch_pairs, rows * options.epochs))

    rows = job.row_count
    steps = math.ceil(rows / options.batch_pairs) * options.epochs
    on_cpu = str(trained.device) == "cpu"
    trained.model_card_data.widget = [{"text": ""}]  # else examples are drawn and printed for a card that nobody writes
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(work),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_pairs,
        learning_rate=rate,
        warmup_steps=math.ceil(WARMUP_FRAC * steps),
        lr_scheduler_type="linear",
        batch_sampler=BatchSamplers.NO_DUPLICATES if job.kind == "pairs" else BatchSamplers.BATCH_SAMPLER,
        seed=seed,
        data_seed=seed,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=on_cpu,
        bf16=not on_cpu,
        dataloader_pin_memory=not on_cpu,
    )
    trainer = SentenceTransformerTrainer(
        model=trained,
        args=arguments,
        train_dataset=Dataset.from_dict(job.rows),
        loss=_loss(trained, job, options),
        callbacks=[Watching()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trained.eval()
