"""The verb `finetune`: a model learns a labelled set and is kept with its head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from seqpair.evaluate.finetune.job import JobReport, TuneJob
    from seqpair.evaluate.finetune.sets import LabelledSet
    from seqpair.evaluate.finetune.settings import TuneSetting
    from seqpair.evaluate.finetune.transfer import Transfer

_SOURCE = "a .tsv, .csv, .jsonl or .conll file, or hub:NAME:CONFIG#SPLIT"


def finetune(
    model: Annotated[str, typer.Argument(help="An export, a Hugging Face folder or name, or a model kept before.")],
    task: Annotated[
        list[str] | None,
        typer.Option(help="A set of the data folder, glue_NAME, or a description NAME.yaml; several learn together."),
    ] = None,
    data: Annotated[str, typer.Option(help=f"Rows to learn from: {_SOURCE}.")] = "",
    dev: Annotated[str, typer.Option(help="Rows to choose by; without, a tenth of the training rows.")] = "",
    test: Annotated[str, typer.Option(help="Rows to report; without, the dev rows.")] = "",
    kind: Annotated[str, typer.Option(help="What a label is: classes, number, tags, span or text.")] = "classes",
    text: Annotated[str, typer.Option(help="The column of the text, words, question or source.")] = "text",
    pair: Annotated[str, typer.Option(help="The column of the second text, or of the text with the answer.")] = "",
    label: Annotated[str, typer.Option(help="The column of the class, number, tags, answer or target.")] = "label",
    messages: Annotated[str, typer.Option(help="For text: the column of chat turns, in place of the two.")] = "",
    labels: Annotated[str, typer.Option(help="The classes in their order, with commas between.")] = "",
    header: Annotated[str, typer.Option(help="The columns of a file without a header, with commas between.")] = "",
    prompt: Annotated[str, typer.Option(help="For text: what stands before the target; \\n is a line end.")] = (
        "{source}\\n"
    ),
    metric: Annotated[str, typer.Option(help="What chooses and is reported; default: the kind's first.")] = "",
    name: Annotated[str, typer.Option(help="The name of the set that --data gives.")] = "data",
    transfer: Annotated[
        list[str] | None, typer.Option(help="Another set, as --task, or a file: answered and not learned.")
    ] = None,
    meaning: Annotated[
        list[str] | None, typer.Option("--map", help="LABEL=LABEL_OF_THE_OTHER_SET, for --transfer.")
    ] = None,
    data_folder: Annotated[Path, typer.Option(help="The folder with the named sets.")] = Path("data/eval"),
    grid: Annotated[str, typer.Option(help="Settings to try: small, published or final.")] = "small",
    rate: Annotated[list[float] | None, typer.Option(help="A learning rate, in place of the grid; repeatable.")] = None,
    decay: Annotated[list[float] | None, typer.Option(help="A weight decay, with --rate; repeatable.")] = None,
    epochs: Annotated[list[int] | None, typer.Option(help="Passes, with --rate; repeatable.")] = None,
    batch_rows: Annotated[int | None, typer.Option(min=1, help="Rows of a step.")] = None,
    pooling: Annotated[str, typer.Option(help="cls, mean or last; default: cls of encoders, last of decoders.")] = (
        "default"
    ),
    head: Annotated[str, typer.Option(help="mlp (dense, GELU, norm, linear) or linear.")] = "mlp",
    dropout: Annotated[float, typer.Option(min=0, max=0.9, help="In the head.")] = 0.1,
    max_tokens: Annotated[int | None, typer.Option(min=5, help="Longest row; longer ones are cut and counted.")] = None,
    patience: Annotated[int, typer.Option(min=1, help="Looks at the dev rows without a better score.")] = 3,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Most rows of each part.")] = None,
    out: Annotated[Path | None, typer.Option(help="The job's folder; default: finetuned/MODEL/SETS.")] = None,
    keep: Annotated[bool, typer.Option("--keep/--no-keep", help="Keep the chosen model.")] = True,
    device: Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1.")] = "cpu",
    batch_tokens: Annotated[int, typer.Option(min=1, help="Most places of a padded batch.")] = 8192,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read the rows, say what would run, write nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Fine-tune an encoder or a decoder on labelled rows: one head for both directions, or texts for a decoder.

    Every setting of the grid runs with every seed; the dev rows stop a run and choose the setting. The chosen model is
    kept with its head, as a Hugging Face class where one computes the same. An interrupted job goes on.

    Example: seqpair finetune runs/demo/encoder/export --data reviews.tsv --text sentence --label label --seeds 3
    """
    from seqpair.errors import EvaluationError
    from seqpair.evaluate.classification.named import find_set
    from seqpair.evaluate.finetune.job import TuneJob, job_folder, run_job
    from seqpair.evaluate.loaded import open_model
    from seqpair.evaluate.model_place import find_model

    if bool(data) == bool(task):
        raise EvaluationError("say what is to be learned", seen=data or None, allowed="either --data or --task")
    columns = {"text": text, "pair": pair or None, "label": label, "messages": messages or None, "metric": metric}
    columns |= {"kind": kind, "labels": _split(labels), "header": _split(header)}
    columns["prompt"] = prompt.replace("\\n", "\n")
    found = (
        [find_set(one, data_folder) for one in task]
        if task
        else [_described(columns | {"name": name, "train": data, "dev": dev, "test": test})]
    )
    sets = tuple(labelled.limited(limit) for labelled, _ in found)
    base: dict[str, Any] = {"pooling": pooling, "head": head, "dropout": dropout, "precision": precision}
    base |= {"patience_checks": patience, "max_tokens": max_tokens or max(longest for _, longest in found)}
    settings = _settings(sets[0].name, grid, base, rate, decay, epochs, batch_rows)
    transfers = [_transfer(one, sets[0], columns, meaning or [], data_folder, limit) for one in transfer or []]
    place = find_model(model)
    folder = out or job_folder(place, [one.name for one in sets])
    job = TuneJob(sets, tuple(settings), tuple(range(seeds)), folder, tuple(transfers), limit, keep)
    if dry_run:
        _print_plan(place.name, job)
        return
    report = run_job(open_model(place, device=device, batch_tokens=batch_tokens), job)
    if as_json:
        print(json.dumps(report.as_json()))
    else:
        _print_report(report)


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",")) if text else ()


def _described(given: dict[str, Any]) -> tuple[LabelledSet, int]:
    from seqpair.evaluate.finetune.set_spec import labelled_set, spec_of

    spec = spec_of(given, "the command line")
    return labelled_set(spec), spec.max_tokens


def _settings(
    name: str,
    grid: str,
    base: dict[str, Any],
    rates: list[float] | None,
    decays: list[float] | None,
    epochs: list[int] | None,
    batch_rows: int | None,
) -> list[TuneSetting]:
    from dataclasses import replace

    from seqpair.errors import EvaluationError
    from seqpair.evaluate.finetune.settings import TuneSetting, given_settings, grid_settings

    common = TuneSetting(1e-4, **base)
    if rates:
        settings = given_settings(rates, decays or [1e-5], epochs or [3], common)
    elif decays or epochs:
        raise EvaluationError("--decay and --epochs belong to a grid of your own", fix="give --rate too")
    else:
        settings = grid_settings(grid, name, common)
    return settings if batch_rows is None else [replace(setting, batch_rows=batch_rows) for setting in settings]


def _transfer(
    other: str, learned: LabelledSet, columns: dict[str, Any], meanings: list[str], folder: Path, limit: int | None
) -> Transfer:
    from seqpair.errors import EvaluationError
    from seqpair.evaluate.classification.named import find_set
    from seqpair.evaluate.finetune.set_spec import labelled_set, spec_of
    from seqpair.evaluate.finetune.transfer import transfer_of

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
    print(f"chosen: lr {chosen['learning_rate']:g}, epochs {chosen['epochs']}, {chosen['pooling']} pooling")
    if report.kept:
        kind = report.kept.get("hub_class") or report.kept.get("no_hub_class_because")
        print(f"kept: {report.kept['folder']}" + (f" ({kind})" if kind else ""))
    print(f"results in {report.out / 'results'}")
