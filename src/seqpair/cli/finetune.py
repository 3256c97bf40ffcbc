"""The verb `finetune`: a model learns a labelled set and is kept with its head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from seqpair.evaluate.finetune.job import JobReport, TuneJob
    from seqpair.evaluate.finetune.sets import LabelledSet, Transfer
    from seqpair.evaluate.finetune.settings import TuneSetting

_SOURCE = "a .tsv, .csv, .jsonl or .conll file, or hub:NAME:CONFIG#SPLIT"
_LISTS = ("labels", "header")

Model = Annotated[str, typer.Argument(help="An export, a checkpoint, a run, or a Hugging Face folder or name.")]
Task = Annotated[
    list[str] | None,
    typer.Option(help="A set of the data folder, glue_NAME, or a description NAME.yaml; several learn together."),
]
Data = Annotated[str, typer.Option(help=f"Rows to learn from: {_SOURCE}.")]
Dev = Annotated[str, typer.Option(help="Rows to choose by; without, a tenth of the training rows.")]
Test = Annotated[str, typer.Option(help="Rows to report; without, the dev rows.")]
KindOf = Annotated[str, typer.Option(help="What a label is: classes, number, tags, span or text.")]
Text = Annotated[str, typer.Option(help="The column of the text, words, question or source.")]
Pair = Annotated[str | None, typer.Option(help="The column of the second text, or of the text with the answer.")]
Label = Annotated[str, typer.Option(help="The column of the class, number, tags, answer or target.")]
Given = Annotated[
    list[str] | None,
    typer.Option("--set", help="KEY=VALUE: any other key of a description or a setting (docs/finetuning.md)."),
]
Others = Annotated[list[str] | None, typer.Option(help="Another set, as --task, or a file: answered, not learned.")]
Meaning = Annotated[list[str] | None, typer.Option("--map", help="LABEL=LABEL_OF_THE_OTHER_SET, for --transfer.")]
DataFolder = Annotated[Path, typer.Option(help="The folder with the named sets.")]
Grid = Annotated[str, typer.Option(help="Settings to try: small, published or final.")]
Rate = Annotated[list[float] | None, typer.Option(help="A learning rate, in place of the grid; repeatable.")]
Epochs = Annotated[list[int] | None, typer.Option(help="Passes over the rows, with --rate; repeatable.")]
PoolingOf = Annotated[str, typer.Option(help="cls, mean or last; default: cls of encoders, last of decoders.")]
Seeds = Annotated[int, typer.Option(min=1, help="How many seeds, from 0.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Most rows of each part.")]
Out = Annotated[Path | None, typer.Option(help="The job's folder; default: finetuned/MODEL/SETS.")]
Keep = Annotated[bool, typer.Option("--keep/--no-keep", help="Keep the chosen model.")]
Device = Annotated[str, typer.Option(help="Where the model runs: auto, cpu, cuda, cuda:1.")]
BatchTokens = Annotated[int, typer.Option(min=1, help="Most places of a padded batch.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Read the rows, say what would run, write nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the results as JSON.")]


def finetune(
    model: Model,
    task: Task = None,
    data: Data = "",
    dev: Dev = "",
    test: Test = "",
    kind: KindOf = "classes",
    text: Text = "text",
    pair: Pair = None,
    label: Label = "label",
    given: Given = None,
    transfer: Others = None,
    meaning: Meaning = None,
    data_folder: DataFolder = Path("data/eval"),
    grid: Grid = "small",
    rate: Rate = None,
    epochs: Epochs = None,
    pooling: PoolingOf = "default",
    seeds: Seeds = 1,
    limit: Limit = None,
    out: Out = None,
    keep: Keep = True,
    device: Device = "auto",
    batch_tokens: BatchTokens = 8192,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune an encoder or a decoder on labelled rows: one head for both directions, or texts for a decoder.

    Every setting of the grid runs with every seed; the dev rows stop a run and choose the setting. The chosen model is
    kept with its head, as a Hugging Face class where one computes the same. An interrupted job goes on.

    Example: seqpair finetune runs/demo/encoder/export --data reviews.tsv --text sentence --label mood --seeds 3
    """
    from seqpair.evaluate.finetune.job import TuneJob, job_folder, run_job
    from seqpair.models.open import open_model
    from seqpair.models.place import find_model

    columns = {"kind": kind, "text": text, "pair": pair, "label": label, "train": data, "dev": dev, "test": test}
    columns, common = _with_given({"name": "data"} | columns, {"pooling": pooling}, given or [])
    sets, longest = _sets(task or [], columns, data_folder)
    settings = _settings(sets[0].name, grid, {"max_tokens": longest} | common, rate, epochs)
    transfers = tuple(_transfer(one, sets[0], columns, meaning or [], data_folder, limit) for one in transfer or [])
    place = find_model(model)
    learned = tuple(one.limited(limit) for one in sets)
    folder = out or job_folder(place, [one.name for one in sets])
    job = TuneJob(learned, tuple(settings), tuple(range(seeds)), folder, transfers, limit, keep)
    if dry_run:
        _print_plan(place.name, job)
        return
    report = run_job(open_model(place, device=device, batch_tokens=batch_tokens), job)
    if as_json:
        print(json.dumps(report.as_json()))
    else:
        _print_report(report)


def _with_given(
    columns: dict[str, Any], common: dict[str, Any], given: list[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the keys of the description and of the settings, with what --set says."""
    from dataclasses import fields

    from seqpair.errors import EvaluationError
    from seqpair.evaluate.finetune.set_spec import SetSpec
    from seqpair.evaluate.finetune.settings import TuneSetting
    from seqpair.recipe.tree import plain_scalar

    settings = {field.name for field in fields(TuneSetting)} - {"learning_rate", "epochs", "pooling"}
    for pair in given:
        key, equals, value = pair.partition("=")
        if not equals or (key not in settings and key not in SetSpec.model_fields):
            raise EvaluationError(
                "--set has no such key",
                seen=pair,
                allowed=", ".join(f"{name}=VALUE" for name in [*SetSpec.model_fields, *sorted(settings)]),
            )
        if key in SetSpec.model_fields:
            parts = [part.strip() for part in value.split(",")] if key in _LISTS else value.replace("\\n", "\n")
            columns = columns | {key: parts}
        if key in settings:
            common = common | {key: plain_scalar(value)}
    return columns, common


def _sets(tasks: list[str], columns: dict[str, Any], folder: Path) -> tuple[list[LabelledSet], int]:
    """Return the sets to learn, and the longest row that suits them."""
    from seqpair.errors import EvaluationError
    from seqpair.evaluate.classification.sets import find_set
    from seqpair.evaluate.finetune.set_spec import labelled_set, spec_of

    if bool(columns["train"]) == bool(tasks):
        raise EvaluationError(
            "say what is to be learned", seen=columns["train"] or None, allowed="either --data or --task"
        )
    if not tasks:
        spec = spec_of(columns, "the command line")
        return [labelled_set(spec)], spec.max_tokens
    found = [find_set(name, folder) for name in tasks]
    return [labelled for labelled, _ in found], max(longest for _, longest in found)


def _settings(
    name: str, grid: str, common: dict[str, Any], rates: list[float] | None, epochs: list[int] | None
) -> list[TuneSetting]:
    from dataclasses import replace

    from seqpair.errors import EvaluationError
    from seqpair.evaluate.finetune.settings import TuneSetting, given_settings, grid_settings

    try:
        base = TuneSetting(1e-4, **common)
    except TypeError as error:
        raise EvaluationError("a setting of another type than its own", seen=common) from error
    if rates:
        return given_settings(rates, [base.weight_decay], epochs or [3], base)
    if epochs:
        raise EvaluationError("--epochs belongs to a grid of your own", fix="give --rate too")
    own = {key: value for key, value in common.items() if key in ("batch_rows", "weight_decay")}
    return list(dict.fromkeys(replace(setting, **own) for setting in grid_settings(grid, name, base)))


def _transfer(
    other: str, learned: LabelledSet, columns: dict[str, Any], meanings: list[str], folder: Path, limit: int | None
) -> Transfer:
    from seqpair.errors import EvaluationError
    from seqpair.evaluate.classification.sets import find_set
    from seqpair.evaluate.finetune.set_spec import labelled_set, spec_of
    from seqpair.evaluate.finetune.sets import transfer_of

    wrong = [pair for pair in meanings if pair.count("=") != 1]
    if wrong:
        raise EvaluationError("--map names two labels", seen=", ".join(wrong), allowed="LABEL=LABEL_OF_THE_OTHER_SET")
    if "." in other and not other.endswith((".yaml", ".yml")):
        spec = spec_of(columns | {"name": "other", "test": other, "labels": ()}, "the command line")
        labelled = labelled_set(spec, like=learned)
    else:
        labelled, _ = find_set(other, folder)
    return transfer_of(learned, labelled.limited(limit), dict(pair.split("=") for pair in meanings))


def _print_plan(name: str, job: TuneJob) -> None:
    for one in job.sets:
        rows = f"{len(one.train):,} rows, dev {len(one.dev):,}, test {len(one.test):,}"
        print(f"{one.name}: {one.kind}, {rows}, {one.metric}" + (f", {len(one.labels)} labels" if one.labels else ""))
    for other in job.transfers:
        print(f"{other.labelled.name}: {len(other.labelled.reported):,} rows to answer")
    runs = len(job.settings) * len(job.seeds)
    print(f"{name}: {len(job.settings)} settings x {len(job.seeds)} seeds = {runs} runs, into {job.out}")


def _print_report(report: JobReport) -> None:
    for result in report.results:
        error = "" if result.standard_error is None else f" +- {result.standard_error:.4f}"
        chance = "" if result.chance is None else f", chance {result.chance:.4f}"
        print(f"{result.task}: {result.metric} {result.value:.4f}{error}, n {result.n}{chance}")
        others = {name: value for name, value in result.figures.items() if name.endswith("_mean")}
        print("    " + ", ".join(f"{name.removesuffix('_mean')} {value:.4f}" for name, value in others.items()))
        if "seed_standard_deviation" in result.figures:
            print(f"    over {len(result.seeds)} seeds: +- {result.figures['seed_standard_deviation']:.4f}")
        if result.note:
            print(f"    {result.note}")
    chosen = report.results[0].settings["chosen"]
    writes = report.kept.get("hub_class") == "AutoModelForCausalLM"
    reads = "" if writes else f", {chosen['pooling']} pooling"
    print(f"chosen: lr {chosen['learning_rate']:g}, epochs {chosen['epochs']}{reads}")
    if report.kept:
        kind = report.kept.get("hub_class") or report.kept.get("no_hub_class_because")
        print(f"kept: {report.kept['folder']}" + (f" ({kind})" if kind else ""))
    print(f"results in {report.out / 'results'}")
