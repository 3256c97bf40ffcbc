"""The verb `finetune`: a model learns a labelled set and is kept with its head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqpair.cli.options import DeviceOption

if TYPE_CHECKING:
    from seqpair.evaluate.finetune.job import JobReport, TuneJob

_SOURCE = "a .tsv, .csv, .jsonl or .conll file, or hub:NAME:CONFIG#SPLIT"
_MOST_CLASSES_SHOWN = 20

Model = Annotated[str, typer.Argument(help="An export, a checkpoint, a run, or a Hugging Face folder or name.")]
Task = Annotated[
    list[str] | None,
    typer.Option(
        help="Learn a set of the data folder, glue_NAME, or a set described in NAME.yaml. With several, one model "
        "learns all of them."
    ),
]
Data = Annotated[str | None, typer.Option(help=f"Learn from these rows: {_SOURCE}.")]
Dev = Annotated[
    str | None, typer.Option(help="Choose the setting on these rows. Default: a tenth of the training rows.")
]
Test = Annotated[str | None, typer.Option(help="Report the metrics on these rows. Default: the dev rows.")]
KindOf = Annotated[
    str | None, typer.Option(help="What a label is: classes, number, tags, span or text. Default: classes.")
]
Text = Annotated[str | None, typer.Option(help="Column of the text, words, question or source. Default: text.")]
Pair = Annotated[str | None, typer.Option(help="Column of the second text, or of the text that contains the answer.")]
Label = Annotated[str | None, typer.Option(help="Column of the class, number, tags, answer or target. Default: label.")]
Choice = Annotated[
    list[str] | None,
    typer.Option(help="KEY=VALUE: set any other key of a description or of a setting (docs/finetuning.md)."),
]
Others = Annotated[
    list[str] | None,
    typer.Option(help="Answer the rows of another set, named as with --task, or of a file, without learning them."),
]
Meaning = Annotated[list[str] | None, typer.Option("--map", help="With --transfer: LABEL=LABEL_OF_THE_OTHER_SET.")]
DataFolder = Annotated[Path, typer.Option(help="The folder that contains the named sets.")]
Grid = Annotated[str, typer.Option(help="Which settings to try: small, published or final.")]
Rate = Annotated[list[float] | None, typer.Option(help="Try this learning rate instead of a grid; repeatable.")]
Epochs = Annotated[list[int] | None, typer.Option(help="With --rate: train for this many epochs; repeatable.")]
PoolingOf = Annotated[
    str, typer.Option(help="What the head reads: cls, mean or last. Default: cls for encoders, last for decoders.")
]
Seeds = Annotated[int, typer.Option(min=1, max=1000, help="Train with this many seeds, from 0.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Use at most this many rows of each part.")]
Out = Annotated[
    Path | None, typer.Option(help="The folder of the job. Default: finetuned/MODEL/SETS-DIGEST_OF_THE_ROWS.")
]
Keep = Annotated[bool, typer.Option("--keep/--no-keep", help="Keep the chosen model.")]
BatchTokens = Annotated[int, typer.Option(min=1, help="Largest number of positions in a padded batch.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Read the rows and print what would run; write nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the results as JSON.")]


def finetune(
    model: Model,
    task: Task = None,
    data: Data = None,
    dev: Dev = None,
    test: Test = None,
    kind: KindOf = None,
    text: Text = None,
    pair: Pair = None,
    label: Label = None,
    choice: Choice = None,
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
    device: DeviceOption = "auto",
    batch_tokens: BatchTokens = 8192,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune an encoder or a decoder on labelled rows and keep the model with its head.

    Every setting of the grid is trained with every seed. The dev rows stop a run early and choose the setting. The
    model is written as a Hugging Face class where one gives the same outputs. An interrupted job resumes.

    Example: seqpair finetune runs/demo/encoder/export --data reviews.tsv --text sentence --label mood --seeds 3
    """
    from seqpair.evaluate.finetune.job import TuneRequest, job_of, run_job
    from seqpair.models.open import open_model
    from seqpair.models.place import find_model

    request = TuneRequest(
        tasks=task or (),
        described={"train": data, "dev": dev, "test": test, "kind": kind, "text": text, "pair": pair, "label": label},
        transfers=transfer or (),
        meanings=meaning or (),
        choices=choice or (),
        data_folder=data_folder,
        grid=grid,
        rates=rate or (),
        epochs=epochs or (),
        pooling=pooling,
        seeds=seeds,
        limit=limit,
        out=out,
        keep=keep,
    )
    place = find_model(model)
    job = job_of(request, place)
    if dry_run:
        _print_plan(place.name, job)
    else:
        _print_report(run_job(open_model(place, device=device, batch_tokens=batch_tokens), job), as_json=as_json)


def _print_plan(name: str, job: TuneJob) -> None:
    for one in job.sets:
        rows = f"{len(one.train):,} rows, dev {len(one.dev):,}, test {len(one.test):,}"
        print(f"{one.name}: {one.kind}, {rows}, {one.metric}" + (f", {len(one.labels)} labels" if one.labels else ""))
        counts = [f"{label} {count:,}" for label, count in one.label_counts.items()]
        if counts:
            more = f", and {len(counts) - _MOST_CLASSES_SHOWN} more" if len(counts) > _MOST_CLASSES_SHOWN else ""
            print("    training labels: " + ", ".join(counts[:_MOST_CLASSES_SHOWN]) + more)
    for other in job.transfers:
        print(f"{other.labelled.name}: {len(other.labelled.reported):,} rows to answer")
    runs = len(job.settings) * len(job.seeds)
    print(f"{name}: {len(job.settings)} settings x {len(job.seeds)} seeds = {runs} runs, into {job.out}")


def _print_report(report: JobReport, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report.as_json()))
        return
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
