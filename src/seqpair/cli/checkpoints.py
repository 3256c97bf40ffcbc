"""The verb `checkpoints`: list a run's checkpoints, thin them by a rule, show what was read between two of them.

Imports no torch.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqpair.cli.options import JsonOption, MemberOption, SetOption, StudyArgument
from seqpair.cli.table import print_table
from seqpair.errors import CheckpointError, RecipeError, SeqpairError
from seqpair.text import format_bytes, format_count, format_seconds, parse_count

if TYPE_CHECKING:
    from seqpair.checkpoint.catalog import CheckpointEntry
    from seqpair.data.order.spans import Span, SpanReader
    from seqpair.recipe.plan import KeepRule
    from seqpair.suite.places import RunPlace

_SHOWN_AT_EACH_END = 3
_DAY_SECONDS = 86_400


def checkpoints(
    study: StudyArgument,
    member: MemberOption = "",
    overrides: SetOption = None,
    show_all: Annotated[
        bool, typer.Option("--all", help="Print one row per checkpoint, however many there are.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare every file's SHA-256 too; exit with 2 on a fault.")
    ] = False,
    thin: Annotated[
        str | None, typer.Option(metavar="RULE", help="List what this rule would remove: `last=3,every=10B`.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="With --thin: remove the checkpoints.")] = False,
    between: Annotated[
        tuple[str, str] | None, typer.Option(metavar="A B", help="List the documents that were read after A up to B.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="With --between: list at most this many documents.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List checkpoints with phase, step, tokens seen, size, age, and whether their files are complete.

    A long series is shortened to its first and last ones; damaged checkpoints are always listed.

    With --thin RULE it lists what a rule would remove, and with --yes removes it. The rule keeps the newest `last`, the
    first at or after each multiple of `every` content tokens, the last one of each phase, and always the newest.

    With --between A B it lists the documents read between two checkpoints, computed from the order. The checkpoints
    need not be on disk, and `step0` is the start.

    Example: seqpair checkpoints runs/demo/decoder

    Example: seqpair checkpoints demo --member decoder --thin last=3,every=1M --yes

    Example: seqpair checkpoints demo --member decoder --between step100 step200 --limit 5
    """
    from seqpair.suite.places import find_study

    if between is not None and thin is not None:
        raise RecipeError(
            "--between and --thin were given together", allowed="one of them", fix="leave one of them out"
        )
    if yes and thin is None:
        raise RecipeError("--yes was given without --thin", seen="--yes alone", fix="add --thin last=3")
    rule = None if thin is None else parse_rule(thin)
    runs = find_study(study, overrides or ()).chosen([member] if member else [])
    if between is not None:
        _show_between(runs[0], *between, limit=None if show_all else limit, as_json=as_json)
        return
    if rule is not None:
        _show_thinned([_thin(run, rule, remove=yes) for run in runs], yes, show_all=show_all, as_json=as_json)
        return
    listings = [read_listing(run, verify=verify) for run in runs]
    if as_json:
        print(json.dumps([asdict(listing) for listing in listings], indent=1))
    else:
        for listing in listings:
            _show_listing(listing, show_all=show_all)
    if verify:
        _require_whole(listings)


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
    """A run's checkpoints, oldest first, and its soups.

    `unreadable` has the errors of folders that are no checkpoints of this run, `missing` the planned checkpoints that
    must be there and are not, `thinned` those that a rule may have removed.
    """

    member: str
    run: str
    checkpoints: list[Row]
    soups: list[Row]
    unreadable: list[str]
    missing: list[str]
    thinned: list[str]


@dataclass(frozen=True)
class Thinned:
    """What a rule removes of a run's checkpoints, oldest first, what it keeps, and the bytes it frees."""

    member: str
    run: str
    removed: list[str]
    kept: list[str]
    freed_bytes: int
    done: bool


def read_listing(run: RunPlace, *, verify: bool) -> Listing:
    """Return a run's checkpoints and soups.

    Args:
        run: The run.
        verify: Compare SHA-256 too, not only sizes.
    """
    from seqpair.checkpoint.catalog import missing_checkpoints, scan, scan_soups

    found, soups = scan(run.path), scan_soups(run.path)
    missing, thinned = missing_checkpoints(run.path, run.plan()) if verify else ([], [])
    return Listing(
        member=run.member,
        run=str(run.path),
        checkpoints=[_row(entry, verify) for entry in found.entries],
        soups=[_row(entry, verify) for entry in soups.entries],
        unreadable=[str(fault) for fault in (*found.faults, *soups.faults)],
        missing=missing,
        thinned=thinned,
    )


def _require_whole(listings: Sequence[Listing]) -> None:
    """Raise an error that counts what --verify found.

    Raises:
        CheckpointError: A checkpoint is damaged, is not one of its run, or is missing.
    """
    faults: list[str] = []
    for one in listings:
        faults += [f"{one.member} {row.name} ({row.fault})" for row in (*one.checkpoints, *one.soups) if row.fault]
        faults += [f"{one.member}: {fault.splitlines()[0]}" for fault in one.unreadable]
        faults += [f"{one.member} {name} (missing)" for name in one.missing]
    if faults:
        raise CheckpointError(
            f"{len(faults)} checkpoints are damaged or missing",
            seen="; ".join(faults),
            allowed="every planned checkpoint with the files that were written",
            fix="put back good copies; a run resumes from the newest whole checkpoint",
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
            "the rule does not say how many of the newest checkpoints stay",
            seen=repr(text),
            allowed="last=N, alone or with every=TOKENS",
            fix=f"--thin last=1,{text}",
        )
    return KeepRule(last=given["last"], every_tokens=given.get("every"))


def _thin(run: RunPlace, rule: KeepRule, *, remove: bool) -> Thinned:
    """Say what a rule removes, and remove it under the run's lock if asked to."""
    from seqpair.checkpoint.catalog import list_checkpoints, superfluous, thin
    from seqpair.checkpoint.lock import lock_run
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


def _show_thinned(answers: Sequence[Thinned], removed: bool, *, show_all: bool, as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(answer) for answer in answers], indent=1))
        return
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


def _show_listing(listing: Listing, *, show_all: bool) -> None:
    rows = listing.checkpoints
    total = f", {format_bytes(sum(row.bytes for row in rows))}, newest {rows[-1].name}" if rows else ""
    print(f"{listing.member} ({listing.run}): {len(rows)} checkpoints{total}")
    if rows:
        groups = [_cells(group) for group in fold(rows, show_all=show_all)]
        print_table(("name", "phase", "step", "tokens", "size", "age", "files"), groups, right=range(2, 6), indent=0)
    for soup in listing.soups:
        print(
            f"soup {soup.name}: average of {len(soup.parts)}, {_names(soup.parts, show_all)}; "
            f"{format_bytes(soup.bytes)}, {format_age(soup.age_seconds)} old, {soup.fault or 'whole'}"
        )
    for fault in listing.unreadable:
        print(fault)
    for names, reason in ((listing.missing, "missing"), (listing.thinned, "planned, but not there any more")):
        if names:
            print(f"{reason}: {_names(names, show_all)}")


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


def _show_between(run: RunPlace, first: str, second: str, *, limit: int | None, as_json: bool) -> None:
    """Print the documents read after one checkpoint up to another, then the counts of each source.

    Args:
        run: The run, or the member of a recipe.
        first: The earlier checkpoint's name, `step100`.
        second: The later one's.
        limit: How many documents to name; all if `None`.
        as_json: Print one JSON object instead of text.

    Raises:
        RecipeError: The plan has no such checkpoints.
        StoreError: The stores are not there, or not those of the plan.
    """
    from seqpair.data.order.spans import SpanReader, spans_between
    from seqpair.data.prepared import open_prepared, require_stores

    plan = run.plan()
    spans = spans_between(plan, first, second)
    prepared = open_prepared(plan.sources, plan.tokenizer, Path(plan.store_folder))
    require_stores(plan, prepared.train)
    reader = SpanReader(plan.seed, spans, prepared.train)
    title = {"study": plan.study, "member": plan.member, "after": first, "up_to": second}
    if as_json:
        _print_json(title, spans, reader, limit)
    else:
        print(f"{plan.study}/{plan.member}: documents read after {first} up to {second}")
        _print_text(spans, reader, limit)


def _named_documents(reader: SpanReader, limit: int | None) -> Iterator[dict[str, object]]:
    """Read all spans; yield the first `limit` documents, in the order of their first reading."""
    from seqpair.data.store.ids import DocumentIds

    ids: dict[int, DocumentIds] = {}
    named = 0
    for found in reader.read():
        shown = found.rows.size if limit is None else min(found.rows.size, limit - named)
        named += shown
        names: dict[tuple[int, int], str] = {}
        for number in sorted(set(found.source[:shown].tolist())):
            rows = found.rows[:shown][found.source[:shown] == number]
            if number not in ids:
                ids[number] = DocumentIds(reader.stores[reader.sources[number]])
            taken = ids[number].take(rows).to_pylist()
            names |= {(number, row): name for row, name in zip(rows.tolist(), taken, strict=True)}
        columns = (found.source, found.rows, found.steps, found.positions)
        for number, row, step, position in zip(*(column[:shown].tolist() for column in columns), strict=True):
            yield {
                "phase": found.phase.name,
                "step": step,
                "position": position,
                "source": reader.sources[number],
                "document": names[number, row],
            }


def _print_json(title: dict[str, str], spans: list[Span], reader: SpanReader, limit: int | None) -> None:
    """Print one object, its documents one a line as they are found, so that none is held."""
    print(json.dumps(title)[:-1] + ', "spans": ' + json.dumps([_span_as_json(span) for span in spans]) + ",")
    print(' "documents": [', end="")
    separator = "\n  "
    for document in _named_documents(reader, limit):
        print(separator + json.dumps(document), end="")
        separator = ",\n  "
    print('],\n "sources": ' + json.dumps([asdict(count) for count in reader.counts]) + "}")


def _span_as_json(span: Span) -> dict[str, object]:
    return {
        "phase": span.phase.name,
        "first_step": span.first_step,
        "stop_step": span.stop_step,
        "first_position": span.positions.start,
        "stop_position": span.positions.stop,
    }


def _print_text(spans: list[Span], reader: SpanReader, limit: int | None) -> None:
    named = 0
    for document in _named_documents(reader, limit):
        if not named:
            print("  first read: phase, step, position, source, document")
        named += 1
        print("  {phase}  {step:>9,}  {position:>12,}  {source}  {document}".format(**document))
    total = sum(count.documents for count in reader.counts)
    if total > named:
        print(f"  and {total - named:,} more; --limit N names more, --all names all")
    for span in spans:
        at = span.positions
        print(
            f"phase {span.phase.name}: steps {span.first_step:,}..{span.stop_step - 1:,}, "
            f"positions {at.start:,}..{at.stop - 1:,}"
        )
    for count in reader.counts:
        print(
            f"{count.source}: {count.documents:,} documents in {count.sequences:,} sequences, "
            f"{count.tokens:,} content tokens ({format_count(count.tokens)})"
        )
    print(f"in all: {total:,} documents, {sum(count.tokens for count in reader.counts):,} content tokens")
