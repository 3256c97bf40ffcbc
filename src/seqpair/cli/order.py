"""The verb `order`: which documents a step holds, when documents are read and who saw them, or all of it as a file.

Imports no torch.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqpair.errors import RecipeError
from seqpair.text import format_bytes

if TYPE_CHECKING:
    from seqpair.data.prepared import Prepared
    from seqpair.recipe.plan import PhasePlan, Plan


def order(
    recipe: Annotated[str, typer.Argument(help="A preset's name or a recipe file.")],
    step: Annotated[int | None, typer.Option(help="Show this step's documents; counted from 0 in its phase.")] = None,
    document: Annotated[str | None, typer.Option(help="Show when the document of this id is read.")] = None,
    text: Annotated[
        str | None, typer.Option(help="Find the documents that hold this text; show when each is read.")
    ] = None,
    export: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the whole order as FILE.parquet.")] = None,
    phase: Annotated[str, typer.Option(help="Only this phase.")] = "",
    source: Annotated[str, typer.Option(help="Look for documents in this source only.")] = "",
    member: Annotated[str, typer.Option(help="The member whose plan is used; the first if left out.")] = "",
    ignore_case: Annotated[bool, typer.Option("--ignore-case", "-i", help="With --text: upper or lower case.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="With --text: stop after this many documents.")] = 20,
    search_all: Annotated[bool, typer.Option("--all", help="With --text: stop after no number of documents.")] = False,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Change a key: `a.b=c`; repeatable.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
) -> None:
    """Say which documents a step holds, when a document or a text is read and who saw it, or write the order down.

    Nothing is looked up in a log: the order is computed, forwards and backwards, from the recipe and its
    prepared stores. Nothing has to be trained. All members that train from scratch share it.

    Example: seqpair order demo --step 12

    Example: seqpair order demo --document json/decoder.py --json

    With --text the stores are searched, held-out documents too: did a model see this sentence, and when?

    Example: seqpair order demo --text "raise NotImplementedError" --limit 5

    With --export a Parquet file gets a row for every training position: phase, step, position, source, document,
    piece, epoch, and the first planned checkpoint that has seen it.

    Example: seqpair order demo --export order.parquet
    """
    from seqpair.cli.order_tables import show_step, show_traces
    from seqpair.data.order.lookup import step_content, trace_document
    from seqpair.data.prepared import open_recipe_data
    from seqpair.data.store.planning import plan_member
    from seqpair.recipe.load import load_recipe

    _require_one({"--step": step, "--document": document, "--text": text, "--export": export})
    loaded = load_recipe(recipe, overrides or ())
    prepared = open_recipe_data(loaded)
    plan = plan_member(loaded, member or next(iter(loaded.members)))
    phases = _chosen_phases(plan, phase)
    if export is not None:
        _export(plan, phases, prepared, export, as_json=as_json)
    elif text is not None:
        from seqpair.cli.order_text import Wanted, show_text

        wanted = Wanted(text, source, None if search_all else limit, ignore_case=ignore_case)
        show_text(wanted, plan, phases, prepared, as_json=as_json)
    elif step is not None:
        content = step_content(plan, _one_phase(phases), step, prepared)
        print(json.dumps(asdict(content), indent=1)) if as_json else show_step(content)
    else:
        traces = trace_document(plan, phases, str(document), source, prepared)
        found = {"documents": [asdict(trace) for trace in traces]}
        print(json.dumps(found, indent=1)) if as_json else show_traces(traces, phases)


def _require_one(asked: dict[str, object]) -> None:
    given = [option for option, value in asked.items() if value is not None]
    if len(given) != 1:
        raise RecipeError(
            "order answers one question at a time",
            seen=" and ".join(given) or f"none of {', '.join(asked)}",
            allowed="one of them",
            fix='seqpair order RECIPE --step 12, or --document ID, or --text "some words", or --export FILE.parquet',
        )


def _export(plan: Plan, phases: list[PhasePlan], prepared: Prepared, out: Path, *, as_json: bool) -> None:
    from seqpair.data.order.export import export_order

    written = export_order(plan, phases, prepared.train, out)
    if as_json:
        print(json.dumps({"path": str(written.path), "rows": written.rows, "bytes": written.bytes}))
    else:
        names = ", ".join(phase.name for phase in phases)
        print(f"{written.path}: {written.rows:,} rows ({names}), {format_bytes(written.bytes)}")


def _chosen_phases(plan: Plan, name: str) -> list[PhasePlan]:
    chosen = [phase for phase in plan.phases if name in ("", phase.name)]
    if not chosen:
        raise RecipeError(
            "the plan has no such phase", seen=name, allowed=", ".join(phase.name for phase in plan.phases)
        )
    return chosen


def _one_phase(phases: list[PhasePlan]) -> PhasePlan:
    if len(phases) > 1:
        raise RecipeError(
            "the plan has several phases, and each counts its steps from 0",
            seen="no --phase",
            allowed=", ".join(phase.name for phase in phases),
            fix="add --phase NAME",
        )
    return phases[0]
