"""The verb `verify`: does every run's ledger contain what its plan and the stores give?

Imports no torch.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from seqpair.cli.options import JsonOption, MemberOption, SetOption, StudyArgument
from seqpair.cli.table import print_table
from seqpair.errors import TrainingError
from seqpair.text import format_count

if TYPE_CHECKING:
    from seqpair.data.order.proof import LedgerProof, SequenceReadings
    from seqpair.data.store.store import Store
    from seqpair.recipe.plan import Plan
    from seqpair.suite.places import RunPlace


def verify(
    study: StudyArgument, member: MemberOption = "", overrides: SetOption = None, as_json: JsonOption = False
) -> None:
    """Check from the ledgers what every member has read: the sequences of each step, equal for all members of a phase.

    Each recorded step is read again from the stores, and its digest is compared. Then the readings of each sequence are
    counted: no sequence is read more often than epochs were begun.

    Example: seqpair verify demo
    """
    from seqpair.data.order.ledger import Ledger, require_same_sequences
    from seqpair.paths import LEDGER_FILE
    from seqpair.suite.places import find_study

    runs = find_study(study, overrides or ()).chosen([member] if member else [])
    begun = [run for run in runs if (run.path / LEDGER_FILE).is_file()]
    if not begun:
        raise TrainingError(
            "there is no ledger to verify", seen=study, fix="`seqpair train` or `seqpair run` writes one for each run"
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
    from seqpair.data.prepared import open_prepared, require_stores

    stores = open_prepared(plan.sources, plan.tokenizer, Path(plan.store_folder)).train
    require_stores(plan, stores)
    return stores


def _prove(run: RunPlace, plan: Plan, stores: dict[str, Store]) -> LedgerProof:
    from seqpair.data.order.ledger import Ledger
    from seqpair.data.order.proof import prove_ledger
    from seqpair.paths import LEDGER_FILE
    from seqpair.text import Progress

    progress = Progress(
        f"verify {run.member}", sum(phase.planned_tokens(phase.steps) for phase in plan.phases), "tokens"
    )
    proof = prove_ledger(plan, Ledger(run.path / LEDGER_FILE), stores, progress.update)
    progress.finish()
    return proof


def _readings(plans: dict[str, Plan], stores: dict[str, dict[str, Store]]) -> list[SequenceReadings]:
    """Count each phase's readings once, though several members share it."""
    from seqpair.data.order.proof import sequence_readings

    found: dict[str, list[SequenceReadings]] = {}
    for member, plan in plans.items():
        for phase in plan.phases:
            if phase.name not in found:
                found[phase.name] = sequence_readings(plan.seed, phase, stores[member])
    return [reading for readings in found.values() for reading in readings]


def _require_within_epochs(readings: list[SequenceReadings]) -> None:
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
    proofs: dict[str, LedgerProof], pairs: list[tuple[str, str, int]], readings: list[SequenceReadings]
) -> dict[str, object]:
    return {
        "ledgers": {member: asdict(proof) for member, proof in proofs.items()},
        "same_sequences": [{"members": [a, b], "common_steps": steps} for a, b, steps in pairs],
        "readings": [{**asdict(one), "epochs": one.epochs, "allowed": one.allowed} for one in readings],
    }


def _show(proofs: dict[str, LedgerProof], pairs: list[tuple[str, str, int]], readings: list[SequenceReadings]) -> None:
    for member, proof in proofs.items():
        print(
            f"{member}: {proof.steps:,} of {proof.planned_steps:,} steps, {format_count(proof.content_tokens)} tokens "
            "read again: every digest as recorded"
        )
    for first, second, steps in pairs:
        print(f"{first} and {second}: the same sequences at all {steps:,} steps that both made")
    rows = [
        (one.phase, one.source, one.sequences, f"{one.epochs:.3f}", one.fewest, one.most, one.allowed)
        for one in readings
    ]
    headings = ("phase", "source", "sequences", "epochs", "fewest", "most", "allowed")
    print_table(headings, rows, right=(3,), title="how often the order reads a sequence")
