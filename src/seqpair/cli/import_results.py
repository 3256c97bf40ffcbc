"""The verb `import-results`: results of lm-eval and mteb join ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from seqpair.cli.options import JsonOption


def import_results(
    model: Annotated[str, typer.Argument(help="Import results of this model: an export, a folder or a name.")],
    files: Annotated[list[Path], typer.Argument(help="Read lm-eval's samples, mteb's results, or folders of them.")],
    metric: Annotated[
        str, typer.Option(help="Take this metric of lm-eval's samples; by default acc_norm or acc.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Write the results to a folder for the model in this one.")] = None,
    absent: Annotated[
        bool, typer.Option("--absent", help="File the results under the model's name; no file of it is here.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Import results of lm-eval (`--log_samples`) and mteb, so that they are compared like those of `seqpair eval`.

    They go where `eval` writes: to `evaluation` beside an export, so that the report pairs the members by item; else to
    `evaluations/<model>`, which `seqpair report STUDY --also` compares with the members.

    Example: seqpair import-results runs/demo/encoder/export lm_eval_output/encoder
    """
    from seqpair.evaluate.imported import absent_model
    from seqpair.evaluate.imported import import_results as write_imported
    from seqpair.evaluate.runner import results_folder
    from seqpair.evaluate.task import TaskContext
    from seqpair.models.place import find_model

    place = absent_model(model) if absent else find_model(model)
    folder = results_folder(place, TaskContext(Path()), out)
    names = write_imported(files, place, folder, metric)
    if as_json:
        print(json.dumps({"model": place.name, "folder": str(folder), "tasks": names}))
        return
    print(f"{folder}: {len(names)} results of {place.name}: {', '.join(names)}")
