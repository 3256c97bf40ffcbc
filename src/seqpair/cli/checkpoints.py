"""The verb `checkpoints`: lists a run's checkpoints, thins them by rule, says what was read between two.

Imports no torch.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from seqpair.cli.between import show_between
from seqpair.cli.run_folders import RunFolder, find_runs
from seqpair.errors import CheckpointError, RecipeError, SeqpairError
from seqpair.text import format_bytes, format_count, format_seconds, parse_count

if TYPE_CHECKING:
    from seqpair.checkpoint.catalog import CheckpointEntry
    from seqpair.recipe.plan import KeepRule

_SHOWN_AT_EACH_END = 3
_DAY_SECONDS = 86_400


def checkpoints(
    target: Annotated[str, typer.Argument(metavar="RECIPE_OR_RUN", help="A recipe, or a run's or a study's folder.")],
    member: Annotated[str, typer.Option(help="Only this member.")] = "",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Change a key: `a.b=c`; repeatable.")] = None,
    show_all: Annotated[bool, typer.Option("--all", help="Fold nothing: a row for each one.")] = False,
    verify: Annotated[bool, typer.Option(help="Also compare every file's SHA-256, not only its size.")] = False,
    thin: Annotated[str, typer.Option(metavar="RULE", help="What would go: `last=3,every=10B`.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="With --thin: remove it.")] = False,
    between: Annotated[
        tuple[str, str] | None, typer.Option(metavar="A B", help="Which documents were read after A up to B.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="With --between: how many documents to name.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
) -> None:
    """List checkpoints: phase, step, tokens seen, size, age, and whether their files are whole.

    A long series is folded to its first and last ones; damaged ones are always shown.

    With --thin RULE it says what a rule would remove, and with --yes removes it: kept are the newest `last`,
    the first at or after each multiple of `every` content tokens, each phase's last one, and always the newest.

    With --between A B it says which documents lie between two checkpoints, computed from the order; they need
    not be on disk, and `step0` is the start.

    Example: seqpair checkpoints runs/demo/decoder

    Example: seqpair checkpoints demo --member decoder --thin last=3,every=1M --yes

    Example: seqpair checkpoints demo --member decoder --between step100 step200 --limit 5
    """
    if between is not None and thin:
        raise RecipeError(
            "one question at a time", seen="--between and --thin", allowed="one of them", fix="leave one of them out"
        )
    if yes and not thin:
        raise RecipeError(
            "--yes belongs to --thin", seen="--yes alone", allowed="--thin RULE --yes", fix="add --thin last=3"
        )
    runs = find_runs(target, member, overrides or ())
    if between is not None:
        show_between(runs[0], *between, limit=None if show_all else limit, as_json=as_json)
    elif thin:
        answers = [_thin(run, parse_rule(thin), remove=yes) for run in runs]
        if as_json:
            print(json.dumps([asdict(answer) for answer in answers], indent=1))
        else:
            _show_thinned(answers, removed=yes, show_all=show_all)
    else:
        listings = [read_listing(run, verify=verify) for run in runs]
        if as_json:
            print(json.dumps([asdict(listing) for listing in listings], indent=1))
        else:
            _show_listings(listings, show_all=show_all)


@dataclass(frozen=True)
class Row:
    """One checkpoint or soup; `fault` is empty where its files are whole, `parts` where it is no soup."""

    name: str
    phase: str
    phase_step: int
    phase_steps: int
    total_steps: int
    content_tokens: int
    bytes: int
    created: str
    age_seconds: float
    whole: bool
    fault: str
    path: str
    parts: list[str]


@dataclass(frozen=True)
class Listing:
    """A run's checkpoints, oldest first, its soups, and what is said of folders whose manifest cannot be read."""

    member: str
    run: str
    checkpoints: list[Row]
    soups: list[Row]
    unreadable: list[str]


@dataclass(frozen=True)
class Thinned:
    """What a rule removes of a run's checkpoints, oldest first, what it keeps, and the bytes it frees."""

    member: str
    run: str
    removed: list[str]
    kept: list[str]
    freed_bytes: int
    done: bool


def read_listing(run: RunFolder, *, verify: bool) -> Listing:
    """Return a run's checkpoints and soups.

    Args:
        run: The run.
        verify: Compare SHA-256 too, not only sizes.
    """
    from seqpair.checkpoint.catalog import scan, scan_soups

    found, soups = scan(run.path), scan_soups(run.path)
    return Listing(
        member=run.member,
        run=str(run.path),
        checkpoints=[_row(entry, verify) for entry in found.entries],
        soups=[_row(entry, verify) for entry in soups.entries],
        unreadable=[str(fault) for fault in (*found.faults, *soups.faults)],
    )


def _row(entry: CheckpointEntry, verify: bool) -> Row:
    from seqpair.checkpoint.manifest import size_bytes, verify_files

    manifest, fault = entry.manifest, ""
    try:
        verify_files(entry.path, manifest, hashes=verify)
    except CheckpointError as error:
        fault = f"{error.what.rpartition(': ')[2]}: {error.seen} instead of {error.allowed}"
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(manifest.created)
    return Row(
        name=manifest.name,
        phase=manifest.phase,
        phase_step=manifest.phase_step,
        phase_steps=manifest.plan.phase(manifest.phase).steps,
        total_steps=manifest.total_steps,
        content_tokens=manifest.content_tokens,
        bytes=size_bytes(manifest),
        created=manifest.created,
        age_seconds=max(0.0, round(age.total_seconds())),
        whole=not fault,
        fault=fault,
        path=str(entry.path),
        parts=[part.name for part in manifest.soup.parts] if manifest.soup else [],
    )


def parse_rule(text: str) -> KeepRule:
    """Read a rule of --thin, `last=3,every=10B`.

    Raises:
        RecipeError: A key that is not known or comes twice, a number that is none, or no `last`.
    """
    from seqpair.recipe.plan import KeepRule

    given: dict[str, int] = {}
    for part in text.split(","):
        key, _, value = part.strip().partition("=")
        try:
            count = parse_count(value)
        except SeqpairError:
            count = 0
        if key not in ("last", "every") or key in given or count < 1:
            raise RecipeError(
                "this rule cannot be read",
                seen=repr(part.strip()),
                allowed="last=N and every=TOKENS, each once, above zero, separated by a comma",
                fix="for example --thin last=3,every=10B",
            )
        given[key] = count
    if "last" not in given:
        raise RecipeError(
            "a rule says how many of the newest stay",
            seen=repr(text),
            allowed="last=N, alone or with every=TOKENS",
            fix=f"--thin last=1,{text}",
        )
    return KeepRule(last=given["last"], every_tokens=given.get("every"))


def _thin(run: RunFolder, rule: KeepRule, *, remove: bool) -> Thinned:
    """Say what a rule removes, and remove it under the run's lock if asked to."""
    from seqpair.checkpoint.catalog import list_checkpoints, lock_run, superfluous, thin
    from seqpair.checkpoint.manifest import size_bytes

    entries = list_checkpoints(run.path)
    if not entries:
        return Thinned(run.member, str(run.path), [], [], 0, done=remove)
    plan = entries[-1].manifest.plan
    phases, rule = plan.phases, rule.model_copy(update={"names": plan.keep.names})
    if remove:
        with lock_run(run.path):
            entries = list_checkpoints(run.path)
            removed = thin(run.path, rule, phases)
    else:
        removed = [entry.name for entry in superfluous(entries, rule, phases)]
    freed = sum(size_bytes(entry.manifest) for entry in entries if entry.name in removed)
    kept = [entry.name for entry in entries if entry.name not in removed]
    return Thinned(run.member, str(run.path), removed, kept, freed, done=remove)


def _show_thinned(answers: Sequence[Thinned], *, removed: bool, show_all: bool) -> None:
    for answer in answers:
        total = len(answer.removed) + len(answer.kept)
        verb = "removed" if removed else "would remove"
        print(
            f"{answer.member} ({answer.run}): {verb} {len(answer.removed)} of {total} checkpoints, "
            f"{format_bytes(answer.freed_bytes)}"
        )
        print(f"  {verb}: {_names(answer.removed, show_all)}")
        print(f"  kept: {_names(answer.kept, show_all)}")
    if not removed:
        print("nothing was removed; repeat with --yes to remove them")


def _names(names: list[str], show_all: bool) -> str:
    edge = 2 * _SHOWN_AT_EACH_END
    if show_all or len(names) <= 2 * edge + 1:
        return ", ".join(names) or "none"
    return ", ".join([*names[:edge], f"{len(names) - 2 * edge} more (--all)", *names[-edge:]])


def _show_listings(listings: Sequence[Listing], *, show_all: bool) -> None:
    for listing in listings:
        _show_listing(listing, show_all=show_all)


def _show_listing(listing: Listing, *, show_all: bool) -> None:
    from rich.table import Table

    from seqpair.cli.plan import wide_console

    rows = listing.checkpoints
    total = f", {format_bytes(sum(row.bytes for row in rows))}, newest {rows[-1].name}" if rows else ""
    print(f"{listing.member} ({listing.run}): {len(rows)} checkpoints{total}")
    if rows:
        table = Table(box=None, pad_edge=False)
        for heading in ("name", "phase", "step", "tokens", "size", "age", "files"):
            table.add_column(heading, justify="right" if heading in ("step", "tokens", "size", "age") else "left")
        for group in fold(rows, show_all=show_all):
            table.add_row(*_cells(group))
        wide_console().print(table)
    for soup in listing.soups:
        print(
            f"soup {soup.name}: average of {len(soup.parts)}, {_names(soup.parts, show_all)}; "
            f"{format_bytes(soup.bytes)}, {format_age(soup.age_seconds)} old, {soup.fault or 'whole'}"
        )
    for fault in listing.unreadable:
        print(fault)


def fold(rows: Sequence[Row], *, show_all: bool) -> list[list[Row]]:
    """Return groups of rows, one line each: those of one stand for themselves, longer ones are folded.

    Of each phase the first and last few, and all that are damaged, stand alone; one row is never folded by itself.
    """
    alone: set[str] = {row.name for row in rows if show_all or not row.whole}
    for phase in {row.phase for row in rows}:
        names = [row.name for row in rows if row.phase == phase]
        alone |= {*names[:_SHOWN_AT_EACH_END], *names[-_SHOWN_AT_EACH_END:]}
    groups: list[list[Row]] = []
    for row in rows:
        joins = groups and row.name not in alone and groups[-1][-1].name not in alone
        if joins and groups[-1][-1].phase == row.phase:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _cells(group: list[Row]) -> tuple[str, ...]:
    first, last = group[0], group[-1]
    if len(group) > 1:
        size = format_bytes(sum(row.bytes for row in group))
        return (f"... {len(group)} more", first.phase, f"{first.phase_step:,} to {last.phase_step:,}", "", size, "", "")
    return (
        first.name,
        first.phase,
        f"{first.phase_step:,} of {first.phase_steps:,}",
        format_count(first.content_tokens),
        format_bytes(first.bytes),
        format_age(first.age_seconds),
        first.fault or "whole",
    )


def format_age(seconds: float) -> str:
    """Return a short text for an age: 20 s, 3 min 20 s, 2 h 05 min, 12 days."""
    return format_seconds(seconds) if seconds < 2 * _DAY_SECONDS else f"{seconds // _DAY_SECONDS:.0f} days"
