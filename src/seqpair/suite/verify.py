"""Whether everything a study left on disk is what its plans, stores and records say: one list of checks.

Each check reads what it judges again: no file's own word is taken where another file can be asked.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from seqpair.checkpoint.catalog import missing_checkpoints, scan, scan_soups
from seqpair.checkpoint.manifest import STATE_NAME, CheckpointManifest, verify_files
from seqpair.compare.reading import NEVER_MEANS
from seqpair.data.order.ledger import Ledger, require_same_sequences
from seqpair.data.order.proof import LedgerProof, SequenceReadings, prove_ledger, sequence_readings
from seqpair.data.prepared import open_prepared, require_stores
from seqpair.data.store.pieces import counts_fit
from seqpair.data.store.store import Store
from seqpair.data.tokenizer.tokenizer import load_tokenizer
from seqpair.errors import CheckpointError, EvaluationError, ExportError, SeqpairError, StoreError, TrainingError
from seqpair.evaluate.results import (
    SAMPLES_NAME,
    SUMMARY_NAME,
    TaskResult,
    is_mean_of_items,
    read_items,
    read_result,
    result_files,
)
from seqpair.files import JsonLines, file_digest, read_json
from seqpair.hub.export import read_export_record
from seqpair.hub.weights import WEIGHTS_NAME
from seqpair.models.integrity import require_recorded
from seqpair.paths import EVALUATION_FOLDER, EXPORT_FOLDER, EXPORT_RECORD, LEDGER_FILE, METRICS_FILE, PLAN_FILE
from seqpair.recipe.diff import diff_plans, plan_digest, require_declared
from seqpair.recipe.plan import Plan
from seqpair.suite.places import RunPlace, StudyPlace
from seqpair.text import Progress
from seqpair.train.pinned_plan import require_pinnable

Stores = dict[str, Store]


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes:
        member: Whose it is; empty for what members share.
        part: `plan`, `stores`, `ledger`, `pair`, `epochs`, `metrics`, `checkpoint`, `export` or `result`.
        subject: What was checked, such as a checkpoint's name.
        found: What was found, if it is as it should be.
        fault: What is wrong, in one line; empty if nothing is.
    """

    member: str
    part: str
    subject: str
    found: str = ""
    fault: str = ""


@dataclass
class Verification:
    """All checks of a study, and what the ledgers' checks counted.

    Attributes:
        checks: Every check, in the order of the parts.
        ledgers: The proof of each member's ledger.
        same_sequences: Two members, and at how many common steps they read the same sequences.
        readings: How often the order reads each source's sequences.
    """

    checks: list[Check] = field(default_factory=list)
    ledgers: dict[str, LedgerProof] = field(default_factory=dict)
    same_sequences: list[tuple[str, str, int]] = field(default_factory=list)
    readings: list[SequenceReadings] = field(default_factory=list)

    @property
    def faults(self) -> list[Check]:
        """Return the checks that failed."""
        return [check for check in self.checks if check.fault]

    def check(self, member: str, part: str, subject: str, what: Callable[[], str]) -> None:
        """Do one check: `what` returns what was found, or raises what is wrong."""
        try:
            self.checks.append(Check(member, part, subject, found=what()))
        except (SeqpairError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            lines = [line.strip() for line in str(error).splitlines()]
            kind = "" if isinstance(error, SeqpairError) else f"{type(error).__name__}: "
            shown = "; ".join(line for line in lines if not line.startswith("next:"))
            self.checks.append(Check(member, part, subject, fault=f"{kind}{shown}"[:500]))


def verify_study(study: StudyPlace, members: Sequence[str] = ()) -> Verification:
    """Check everything that the runs of a study left: plans, stores, ledgers, checkpoints, exports and results.

    Args:
        study: The study.
        members: Only these; all if empty. Of a recipe all its members must have run.

    Raises:
        TrainingError: None of them has a ledger, so that there is nothing to verify.
    """
    runs = study.chosen(members)
    if not any((run.path / name).exists() for run in runs for name in (LEDGER_FILE, PLAN_FILE)):
        raise TrainingError(
            "there is no ledger to verify",
            seen=study.folder,
            fix="`seqpair train` or `seqpair run` writes one for each run",
        )
    done = Verification()
    plans: dict[str, Plan] = {}
    stores: dict[str, Stores] = {}
    for run in runs:
        done.check(run.member, "plan", PLAN_FILE, lambda run=run: _check_plan(run, plans))
        if study.recipe is not None:
            done.check(run.member, "plan", "recipe", lambda run=run: _compare_recipe(study, run))
    for run in (run for run in runs if run.member in plans):
        _check_stores(done, run.member, plans[run.member], stores)
    for run in runs:
        if run.member in stores:
            _check_ledger(done, run, plans[run.member], stores[run.member])
        elif run.member in plans:
            done.check(run.member, "ledger", LEDGER_FILE, lambda run=run: _count_ledger(run))
        _check_checkpoints(done, run, plans.get(run.member))
        _check_exports(done, run, plans.get(run.member))
        _check_results(done, run, plans.get(run.member))
    _check_pairs(done, [run for run in runs if run.member in plans], plans)
    _check_readings(done, plans, stores)
    return done


def _check_plan(run: RunPlace, plans: dict[str, Plan]) -> str:
    """Read a run's plan; a plan that can be read is kept for the checks that need it."""
    path = run.path / PLAN_FILE
    if not path.is_file():
        raise TrainingError(f"there is no {PLAN_FILE} in {run.path}", fix="train this member")
    try:
        plan = Plan.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise TrainingError(
            f"{path} is not a plan", seen=error.errors()[0]["msg"], fix="restore the run's plan.json"
        ) from error
    plans[run.member] = plan
    if plan.member != run.member:
        raise TrainingError(f"the run in {run.path} is another member's", seen=plan.member, allowed=run.member)
    return f"digest {plan_digest(plan)[:16]}"


def _compare_recipe(study: StudyPlace, run: RunPlace) -> str:
    """Compare what the recipe says now with what the run was trained as."""
    if study.counts() is None:
        return "the stores of the recipe are not prepared, so its plan is not known"
    require_pinnable(study.plan(run.member), run.path)
    return "the run's plan"


def _check_stores(done: Verification, member: str, plan: Plan, stores: dict[str, Stores]) -> None:
    """Compare the SHA-256 of every file of the stores, and the piece files with the offsets."""

    def check() -> str:
        prepared = open_prepared(plan.sources, plan.tokenizer, Path(plan.store_folder), verify=True)
        require_stores(plan, prepared.train)
        files = 0
        for ref in plan.stores:
            manifest = prepared.train[ref.source].manifest
            seen, wanted = (manifest.documents, manifest.tokens), (ref.documents, ref.tokens)
            if seen != wanted:
                raise StoreError(
                    f"the counts in the manifest of {ref.source} are not the plan's", seen=seen, allowed=wanted
                )
        for store in (*prepared.train.values(), *prepared.held_out.values()):
            files += len(store.manifest.files)
            for path in sorted(store.folder.glob("pieces-*.i64")):
                files += 1
                if not counts_fit(path, store.offsets):
                    raise StoreError(f"{path} is not what the store's offsets give", fix="delete it: it is made again")
        stores[member] = prepared.train
        return f"{files} files"

    done.check(member, "stores", plan.store_folder, check)


def _count_ledger(run: RunPlace) -> str:
    path = run.path / LEDGER_FILE
    if not path.is_file():
        raise TrainingError(
            f"there is no ledger in {run.path}", fix="restore the run's ledger.jsonl, or train it again in a new folder"
        )
    return f"{sum(1 for _ in Ledger(path).records())} steps recorded; without the stores none is read again"


def _check_ledger(done: Verification, run: RunPlace, plan: Plan, stores: Stores) -> None:
    ledger = Ledger(run.path / LEDGER_FILE)

    def prove() -> str:
        _count_ledger(run)
        planned = sum(phase.planned_tokens(phase.steps) for phase in plan.phases)
        progress = Progress(f"verify {run.member}", planned, "tokens")
        proof = prove_ledger(plan, ledger, stores, progress.update)
        progress.finish()
        done.ledgers[run.member] = proof
        newest = max((entry.manifest.total_steps for entry in scan(run.path).entries), default=0)
        if proof.steps < newest:
            raise TrainingError(
                f"the ledger {ledger.path} is shorter than the newest checkpoint",
                seen=f"{proof.steps} steps",
                allowed=f"at least {newest}",
            )
        return f"{proof.steps:,} of {proof.planned_steps:,} steps read again: every digest as recorded"

    done.check(run.member, "ledger", LEDGER_FILE, prove)
    if run.member in done.ledgers:
        done.check(run.member, "metrics", METRICS_FILE, lambda: _compare_metrics(run.path / METRICS_FILE, ledger, plan))


def _compare_metrics(path: Path, ledger: Ledger, plan: Plan) -> str:
    """Compare the tokens in the rows of training with the sums of the ledger, and the other rows with the plan."""
    tokens = list(itertools.accumulate(record.content_tokens for record in ledger.records()))
    if not path.is_file():
        if tokens and (path.parent / "checkpoints").is_dir():
            raise TrainingError(
                f"there is no {path.name} in {path.parent}", fix="restore it, or train the run again in a new folder"
            )
        return "not there"
    every = list(JsonLines(path).rows())
    rows = [row for row in every if row["kind"] == "train"]
    for number, row in enumerate(rows, start=1):
        at = row["total_step"]
        if at != number or (at <= len(tokens) and row["tokens"] != tokens[at - 1]):
            raise TrainingError(
                f"{path} does not fit the ledger",
                seen=f"row {number} has step {at} and {row['tokens']} tokens",
                allowed=f"step {number} and {tokens[number - 1] if number <= len(tokens) else 'no more'} tokens",
            )
    newest = max((entry.manifest.total_steps for entry in scan(path.parent).entries), default=0)
    if len(rows) < newest:
        raise TrainingError(f"{path} ends before the newest checkpoint", seen=len(rows), allowed=newest)
    before = 0
    for phase in plan.phases:
        looks = [
            (row["step"], row["source"]) for row in every if row["kind"] == "held_out" and row["phase"] == phase.name
        ]
        due = [step for step in phase.held_out_steps if before + step <= newest]
        wanted = {(step, source) for step in due for source in {source for _, source in looks}}
        if missing := sorted(wanted.difference(looks)):
            seen = f"no row of {missing[0][1]} after step {missing[0][0]} of {phase.name}"
            raise TrainingError(f"{path} lacks held-out losses", seen=seen, allowed=f"a row after steps {due}")
        before += phase.steps
    return f"{len(rows):,} steps"


def _check_checkpoints(done: Verification, run: RunPlace, plan: Plan | None) -> None:
    found, soups = scan(run.path), scan_soups(run.path)
    for fault in (*found.faults, *soups.faults):
        done.check(run.member, "checkpoint", "", lambda fault=fault: _raise(fault))
    for entry in (*found.entries, *soups.entries):
        done.check(
            run.member, "checkpoint", entry.name, lambda entry=entry: _check_checkpoint(run, entry.path, entry.manifest)
        )
    if plan is not None:
        done.check(run.member, "checkpoint", "planned", lambda: _check_planned(run.path, plan))
    tokenizer = run.path / "tokenizer"
    if found.entries:
        wanted = found.entries[-1].manifest.tokenizer_digest
        done.check(run.member, "checkpoint", "tokenizer", lambda: _check_tokenizer(tokenizer, wanted))


def _raise(fault: Exception) -> str:
    raise fault


def _check_checkpoint(run: RunPlace, path: Path, manifest: CheckpointManifest) -> str:
    verify_files(path, manifest)
    tokens = sum(
        record.content_tokens
        for record in itertools.islice(Ledger(run.path / LEDGER_FILE).records(), manifest.total_steps)
    )
    if (run.path / LEDGER_FILE).is_file() and tokens != manifest.content_tokens:
        raise TrainingError(
            f"the manifest in {path} does not fit the ledger",
            seen=f"{manifest.content_tokens} content tokens",
            allowed=f"{tokens} content tokens in {manifest.total_steps} steps",
        )
    if manifest.soup is not None:
        return f"average of {len(manifest.soup.parts)}, files whole"
    place = read_json(path / STATE_NAME, CheckpointError, "restore a copy of the checkpoint").get("place", {})
    said = {"step": manifest.phase_step, "total_step": manifest.total_steps, "content_tokens": manifest.content_tokens}
    if place and {name: place.get(name) for name in said} != said:
        raise TrainingError(f"the manifest in {path} does not fit its {STATE_NAME}", seen=said, allowed=place)
    return f"step {manifest.total_steps:,}, files whole"


def _check_planned(folder: Path, plan: Plan) -> str:
    missing, thinned = missing_checkpoints(folder, plan)
    if missing:
        raise TrainingError(
            f"planned checkpoints are missing in {folder}", seen=", ".join(missing), fix="restore them, or train on"
        )
    return f"not there any more: {', '.join(thinned)}" if thinned else "all there"


def _check_tokenizer(folder: Path, wanted: str) -> str:
    digest = load_tokenizer(folder).digest
    if digest != wanted:
        raise TrainingError(f"the tokenizer in {folder} is another one", seen=digest[:16], allowed=wanted[:16])
    return f"digest {digest[:16]}"


def _check_exports(done: Verification, run: RunPlace, plan: Plan | None) -> None:
    for folder in sorted(run.path.glob(f"{EXPORT_FOLDER}*")):
        if folder.is_dir():
            done.check(run.member, "export", folder.name, lambda folder=folder: _check_export(run, folder, plan))


def _check_export(run: RunPlace, folder: Path, plan: Plan | None) -> str:
    record = read_export_record(folder)
    proven = require_recorded(folder, record)
    entries = {entry.name: entry.manifest for entry in (*scan(run.path).entries, *scan_soups(run.path).entries)}
    manifest = entries.get(record["checkpoint"])
    if plan is not None:
        # A checkpoint of a run that was continued may be the shorter plan's.
        digest = plan_digest(plan) if manifest is None else manifest.plan_digest
        wanted: dict[str, Any] = {"study": plan.study, "member": plan.member, "plan_digest": digest}
        _require_equal(f"{folder / EXPORT_RECORD} is of another run", {key: record.get(key) for key in wanted}, wanted)
    if record["model_digest"] != file_digest(folder / WEIGHTS_NAME):
        raise ExportError(
            f"the weights in {folder} are not those in its record",
            seen=record["model_digest"][:16],
            fix="export the checkpoint again",
        )
    if manifest is not None:
        said = {"phase": manifest.phase, "content_tokens": manifest.content_tokens}
        _require_equal(
            f"{folder / EXPORT_RECORD} does not fit its checkpoint", {key: record[key] for key in said}, said
        )
    return f"{record['checkpoint']}, {'every file' if proven else 'the weights'} as exported"


def _require_equal(what: str, seen: dict[str, Any], wanted: dict[str, Any]) -> None:
    if seen != wanted:
        names = [name for name in wanted if seen.get(name) != wanted[name]]
        raise ExportError(
            what,
            seen=", ".join(f"{name} {seen.get(name)}" for name in names),
            allowed=", ".join(f"{name} {wanted[name]}" for name in names),
        )


def _check_results(done: Verification, run: RunPlace, plan: Plan | None) -> None:
    for evaluation in sorted(run.path.glob(f"{EVALUATION_FOLDER}*")):
        export = run.path / evaluation.name.replace(EVALUATION_FOLDER, EXPORT_FOLDER, 1)
        inside = sorted(path for path in evaluation.glob("*") if path.is_dir() and not path.name.startswith("."))
        for folder in (evaluation, *inside):
            named = set()
            for path in result_files(folder):
                named.add(f"{path.stem}.items.jsonl")
                subject = str(path.relative_to(run.path).with_suffix(""))
                done.check(
                    run.member, "result", subject, lambda path=path, export=export: _check_result(path, export, plan)
                )
            for path in sorted(folder.glob("*.items.jsonl")):
                if path.name not in named:
                    message = f"the items {path} have no result beside them"
                    done.check(
                        run.member,
                        "result",
                        path.name,
                        lambda message=message: _raise(EvaluationError(message, fix="evaluate the model again")),
                    )
            for path in (folder / SAMPLES_NAME, folder / SUMMARY_NAME):
                if path.is_file():
                    done.check(run.member, "result", path.name, lambda path=path: _check_object(path))


def _check_object(path: Path) -> str:
    read_json(path, EvaluationError, "evaluate the model again")
    return "readable"


def _check_result(path: Path, export: Path, plan: Plan | None) -> str:
    result: TaskResult = read_result(path)
    if plan is not None:
        seen = {"study": result.study, "member": result.member}
        _require_equal(f"{path} is another model's result", seen, {"study": plan.study, "member": plan.member})
    if (export / WEIGHTS_NAME).is_file():
        wanted = {"model digest": file_digest(export / WEIGHTS_NAME)}
        _require_equal(f"{path} was computed with other weights", {"model digest": result.model_digest}, wanted)
    items = read_items(path.parent, result)
    values, weights = np.array([item.value for item in items]), np.array([item.weight for item in items])
    if len({item.id for item in items}) != len(items):
        raise EvaluationError(f"two items of {path} have one id", fix="evaluate the model again")
    if result.metric not in NEVER_MEANS and not is_mean_of_items(result.value, values, weights):
        mean = float(np.average(values, weights=weights)) if weights.sum() > 0 else "no weight"
        raise EvaluationError(f"the value in {path} is not the mean of its items", seen=result.value, allowed=mean)
    return f"{result.value:.4f} of {result.n:,} items"


def _check_pairs(done: Verification, runs: list[RunPlace], plans: dict[str, Plan]) -> None:
    """Check of every two members that their plans differ as declared, and that they read the same sequences."""
    for first, second in itertools.combinations(runs, 2):
        names = (first.member, second.member)
        subject = " and ".join(names)

        def declared(names: tuple[str, str] = names) -> str:
            differences = diff_plans(plans[names[0]], plans[names[1]])
            require_declared(differences, names)
            return f"{len(differences)} declared differences"

        done.check("", "pair", f"{subject}: plans", declared)
        phases = [{phase.name for phase in plans[name].phases} for name in names]
        if phases[0] & phases[1] and all((run.path / LEDGER_FILE).is_file() for run in (first, second)):

            def same(first: RunPlace = first, second: RunPlace = second) -> str:
                steps = require_same_sequences(
                    *(Ledger(run.path / LEDGER_FILE) for run in (first, second))
                ).common_steps
                done.same_sequences.append((first.member, second.member, steps))
                return f"the same sequences at all {steps:,} steps that both made"

            done.check("", "pair", f"{subject}: sequences", same)


def _check_readings(done: Verification, plans: dict[str, Plan], stores: dict[str, Stores]) -> None:
    """Count each phase's readings once, though several members share it."""
    seen: set[str] = set()
    for member, phase in _phases(plans, stores):
        if phase.name in seen:
            continue
        seen.add(phase.name)
        for one in sequence_readings(plans[member].seed, phase, stores[member]):
            done.readings.append(one)
            said = f"read {one.fewest} to {one.most} times in {one.epochs:.3f} epochs"
            fault = f"{said}; allowed: {one.allowed}" if one.most > one.allowed else ""
            done.checks.append(Check("", "epochs", f"{one.phase}/{one.source}", "" if fault else said, fault))


def _phases(plans: dict[str, Plan], stores: dict[str, Stores]) -> Iterator[tuple[str, Any]]:
    return ((member, phase) for member in stores for phase in plans[member].phases)
