"""The verb `verify`: does every run's ledger hold what its plan and the stores give?

Imports no torch.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqpair.errors import TrainingError
from seqpair.paths import LEDGER_FILE
from seqpair.text import format_count

if TYPE_CHECKING:
    from seqpair.cli.run_folders import RunFolder
    from seqpair.data.order.proof import LedgerProof, SourceReadings
    from seqpair.data.store.store import Store
    from seqpair.recipe.plan import Plan


def verify(
    target: Annotated[str, typer.Argument(help="A recipe, a study's folder or a run's folder.")],
    member: Annotated[str, typer.Option(help="Only this member.")] = "",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Change a key: `a.b=c`; repeatable.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Prove from the ledgers what every member has read: each step's sequences, equal for members that share a phase.

    Each recorded step is read once more from the stores and its digest is compared; nothing is taken on trust from
    the training. Then it is counted how often the order reads each sequence: never more often than epochs were begun.

    Example: seqpair verify demo
    """
    from seqpair.cli.run_folders import find_runs
    from seqpair.data.order.ledger import Ledger, require_same_sequences

    begun = [run for run in find_runs(target, member, overrides or ()) if (run.path / LEDGER_FILE).is_file()]
    if not begun:
        raise TrainingError(
            "there is no ledger to verify", seen=target, fix="`seqpair train` or `seqpair run` writes one for each run"
        )
    plans = {run.member: run.plan() for run in begun}
    stores = {name: _stores_of(plan) for name, plan in plans.items()}
    proofs = {run.member: _prove(run, plans[run.member], stores[run.member]) for run in begun}
    pairs = []
    for first, second in itertools.combinations(begun, 2):
        phases = [{phase.name for phase in plans[run.member].phases} for run in (first, second)]
        if phases[0] & phases[1]:
            same = require_same_sequences(*(Ledger(run.path / LEDGER_FILE) for run in (first, second)))
            pairs.append((first.member, second.member, same.common_steps))
    readings = _readings(plans, stores)
    if as_json:
        print(json.dumps(_as_json(proofs, pairs, readings), indent=1))
    else:
        _show(proofs, pairs, readings)
    _require_within_epochs(readings)


def _stores_of(plan: Plan) -> dict[str, Store]:
    from seqpair.data.prepared import open_prepared
    from seqpair.data.store.planning import require_stores

    stores = open_prepared(plan.sources, plan.tokenizer, Path(plan.store_folder)).train
    require_stores(plan, stores)
    return stores


def _prove(run: RunFolder, plan: Plan, stores: dict[str, Store]) -> LedgerProof:
    from seqpair.data.order.ledger import Ledger
    from seqpair.data.order.proof import prove_ledger
    from seqpair.text import Progress

    progress = Progress(f"verify {run.member}", sum(phase.budget_tokens for phase in plan.phases), "tokens")
    proof = prove_ledger(plan, Ledger(run.path / LEDGER_FILE), stores, progress.update)
    progress.finish()
    return proof


def _readings(plans: dict[str, Plan], stores: dict[str, dict[str, Store]]) -> list[SourceReadings]:
    """Count each phase's readings once, though several members share it."""
    from seqpair.data.order.proof import phase_readings

    found: dict[str, list[SourceReadings]] = {}
    for member, plan in plans.items():
        for phase in plan.phases:
            if phase.name not in found:
                found[phase.name] = phase_readings(plan.seed, phase, stores[member])
    return [reading for readings in found.values() for reading in readings]


def _require_within_epochs(readings: list[SourceReadings]) -> None:
    beyond = [reading for reading in readings if reading.most > reading.allowed]
    if beyond:
        first = beyond[0]
        raise TrainingError(
            f"phase {first.phase!r} repeats sequences of source {first.source!r} before the source is used up",
            seen=f"a sequence read {first.most} times in {first.epochs:.2f} epochs",
            allowed=f"{first.allowed}",
            fix="report this: the order promises otherwise",
        )


def _as_json(
    proofs: dict[str, LedgerProof], pairs: list[tuple[str, str, int]], readings: list[SourceReadings]
) -> dict[str, object]:
    return {
        "ledgers": {member: asdict(proof) for member, proof in proofs.items()},
        "same_sequences": [{"members": [a, b], "common_steps": steps} for a, b, steps in pairs],
        "readings": [{**asdict(one), "epochs": one.epochs, "allowed": one.allowed} for one in readings],
    }


def _show(proofs: dict[str, LedgerProof], pairs: list[tuple[str, str, int]], readings: list[SourceReadings]) -> None:
    from rich.table import Table

    from seqpair.cli.plan import wide_console

    for member, proof in proofs.items():
        print(
            f"{member}: {proof.steps:,} of {proof.planned_steps:,} steps, {format_count(proof.content_tokens)} tokens "
            "read again: every digest as recorded"
        )
    for first, second, steps in pairs:
        print(f"{first} and {second}: the same sequences at all {steps:,} steps that both made")
    table = Table(title="how often the order reads a sequence", title_justify="left", box=None)
    for heading in ("phase", "source", "sequences", "epochs", "fewest", "most", "allowed"):
        table.add_column(heading, justify="left" if heading in ("phase", "source") else "right")
    for one in readings:
        counts = (f"{one.fewest}", f"{one.most}", f"{one.allowed}")
        table.add_row(one.phase, one.source, f"{one.sequences:,}", f"{one.epochs:.3f}", *counts)
    wide_console().print(table)
