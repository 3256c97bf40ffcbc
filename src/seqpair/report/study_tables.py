"""A study's tables: values, parts of tasks, checkpoints, cost, plans, data, versions, and what others published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from seqpair.recipe.cost import plan_cost, scoring_cost
from seqpair.recipe.diff import Difference
from seqpair.recipe.objectives import OBJECTIVES
from seqpair.recipe.plan import Plan
from seqpair.report.data_table import Cell, Column, DataTable, number_cell
from seqpair.report.figures import COLOURS
from seqpair.report.member import MemberRun
from seqpair.report.plans import PlanReading, SourceFact
from seqpair.report.published import PublishedRow
from seqpair.text import format_bytes, format_count, format_seconds

OWN_TEXT = "own text"
CONTEXT_TOKENS, SCORED_TOKENS = 64, 8
"""What scoring an item is taken to be: so many tokens after so many."""


def base_name(member: MemberRun) -> str:
    """Return a member's name without that of its study."""
    return member.name.removeprefix(f"{member.study}/") if member.study else member.name


def member_colours(members: Sequence[MemberRun]) -> dict[str, int]:
    """Return the number of each member's colour: a member has one at all sizes and seeds."""
    names = list(dict.fromkeys(base_name(member) for member in members))
    return {member.name: names.index(base_name(member)) % COLOURS for member in members}


def suite_name(suite: str) -> str:
    """Return a suite's name in words; tasks on a study's own held-out text belong to none."""
    return suite or OWN_TEXT


def parts_table(members: Sequence[MemberRun]) -> DataTable | None:
    """Return the other numbers of the results: parts of a task, rates, counts; None if there are none."""
    names = [member.name for member in members]
    found: dict[tuple[str, str], dict[str, float]] = {}
    titles: dict[str, str] = {}
    for member in members:
        for key, outcome in member.outcomes.items():
            titles.setdefault(key, outcome.title)
            for figure, value in outcome.result.figures.items():
                found.setdefault((key, figure), {})[member.name] = value
    if not found:
        return None
    columns = [Column("Task"), Column("Part")]
    colours = member_colours(members)
    columns += [Column(name, True, f"m{colours[name]}") for name in names]
    body = [
        [Cell(titles[key]), Cell(figure.replace("_", " ")), *(number_cell(values.get(name)) for name in names)]
        for (key, figure), values in sorted(found.items())
    ]
    return DataTable("parts", "Parts of the tasks, and other numbers that came with a result.", columns, body)


def checkpoints_table(members: Sequence[MemberRun]) -> DataTable | None:
    """Return the checkpoints that are on disk, with the newest held-out figure at or before each."""
    columns = [
        Column("Checkpoint"), Column("Member"), Column("Phase"), Column("Steps", True), Column("Tokens", True),
        Column("Held-out bits per byte", True), Column("On disk", True), Column("Made"),
    ]  # fmt: skip
    body = []
    for member in members:
        means = held_out_means(member)
        for saved in member.saved:
            before = [bits for tokens, bits in means if tokens <= saved.tokens]
            body.append(
                [
                    Cell(saved.name),
                    Cell(member.name),
                    Cell(saved.phase),
                    Cell(f"{saved.steps:,}", saved.steps),
                    Cell(format_count(saved.tokens), saved.tokens),
                    number_cell(before[-1] if before else None),
                    Cell(format_bytes(saved.bytes), saved.bytes),
                    Cell(saved.created[:19].replace("T", " ")),
                ]
            )
    caption = (
        "Checkpoints on disk. Held-out: the mean over the sources, bits per byte of the predicted tokens, at the "
        "last measurement up to the checkpoint."
    )
    caption = " ".join([caption, *held_out_remarks(members)])
    return DataTable("checkpoints", caption, columns, body) if body else None


def held_out_remarks(members: Sequence[MemberRun]) -> list[str]:
    """Return what has to be known to compare the members' held-out figures, a sentence for each objective."""
    trained = [member.plan.phases[-1].objectives[-1].objective for member in members if member.plan is not None]
    return [remark for name in dict.fromkeys(trained) if (remark := OBJECTIVES[name].remark)]


def held_out_means(member: MemberRun, sources: Sequence[str] = ()) -> list[tuple[int, float]]:
    """Return (content tokens, mean bits per byte over some sources) by ascending tokens; no sources means all."""
    looks: dict[int, list[float]] = {}
    for point in member.held_out:
        if not sources or point.source in sources:
            looks.setdefault(point.tokens, []).append(point.bits_per_byte)
    return [(tokens, sum(values) / len(values)) for tokens, values in sorted(looks.items())]


def cost_table(members: Sequence[MemberRun]) -> DataTable | None:
    """Return what each member cost: operations, time, disk, evaluation."""
    columns = [
        Column("Member"), Column("Size"), Column("Parameters", True), Column("Training FLOPs", True),
        Column("Tokens read", True), Column("Training time", True), Column("Tokens a second", True),
        Column("Padding", True), Column("Checkpoints", True), Column("Evaluation time", True),
        Column("Rows to score", True), Column("FLOPs to score", True),
    ]  # fmt: skip
    body = []
    for member in members:
        if member.plan is None or member.second_of is not None:
            continue
        cost = plan_cost(member.plan)
        seconds = sum(point.seconds for point in member.train)
        disk = sum(saved.bytes for saved in member.saved)
        waste = sum(point.waste_frac for point in member.train) / max(1, len(member.train))
        speed = median(point.tokens_per_second for point in member.train) if member.train else None
        evaluated = member.evaluation.get("seconds")
        tokens = member.train[-1].tokens if member.train else 0
        rows, flops = item_cost(member.plan, member.objective)
        body.append(
            [
                Cell(member.name),
                Cell(member.plan.size),
                Cell(f"{cost.parameters:,}", cost.parameters),
                Cell(f"{cost.flops:.2e}", cost.flops),
                Cell(format_count(tokens), tokens),
                Cell(format_seconds(seconds), seconds),
                Cell("" if speed is None else f"{speed:,.0f}", speed),
                Cell(f"{100 * waste:.1f} %", waste),
                Cell(format_bytes(disk), disk),
                Cell(format_seconds(evaluated), evaluated) if isinstance(evaluated, int | float) else Cell(""),
                Cell(str(rows), rows),
                Cell(f"{flops:.2e}", flops),
            ]
        )
    caption = (
        "The cost of each member. FLOPs are computed from the plan; time is the sum of the training steps; for a "
        "member that continues another one, only its own steps are counted. To score: the rows and FLOPs of scoring "
        f"{SCORED_TOKENS} tokens after {CONTEXT_TOKENS} from left to right (encoder: one row per token, decoder: one)."
    )
    return DataTable("cost", caption, columns, body, filters=len(body) > 8) if body else None


def item_cost(plan: Plan, objective: str | None = None) -> tuple[int, float]:
    """Return the rows and the FLOPs that `SCORED_TOKENS` tokens after `CONTEXT_TOKENS` take from left to right.

    Args:
        plan: The member's plan.
        objective: The objective of a second export; None for the member's own.
    """
    own = objective or plan.phases[-1].objectives[-1].objective
    return scoring_cost(plan.model, OBJECTIVES[own], CONTEXT_TOKENS, SCORED_TOKENS)


def differences_of_plans_table(first: str, differences: Mapping[str, Sequence[Difference]]) -> DataTable | None:
    """Return every value in which members' plans differ from the first one's, and why it may."""
    columns = [Column("Where in the plan"), Column("Member"), Column(first), Column("Its value"), Column("Why")]
    body = [
        [
            Cell(difference.path),
            Cell(name),
            Cell(plan_value(difference.a)),
            Cell(plan_value(difference.b)),
            Cell(difference.reason)
            if difference.declared
            else Cell("undeclared: this is not a clean pair", tag="undeclared"),
        ]
        for name, found in differences.items()
        for difference in found
    ]
    caption = (
        f"Every value in which a plan differs from that of {first}, with the reason that the objectives table gives."
    )
    return DataTable("plan-differences", caption, columns, body) if body else None


def plan_value(value: object) -> str:
    """Return a plan's value in words."""
    if value is None:
        return "not used"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def sources_table(facts: Sequence[SourceFact]) -> DataTable | None:
    """Return the training text by source."""
    columns = [Column("Source"), Column("Kind"), Column("Documents", True), Column("Tokens", True)]
    columns += [Column("Text", True), Column("Notes")]
    body = [
        [
            Cell(fact.name), Cell(fact.kind), Cell(f"{fact.documents:,}", fact.documents),
            Cell(format_count(fact.tokens), fact.tokens),
            Cell("" if fact.text_bytes is None else format_bytes(fact.text_bytes), fact.text_bytes), Cell(fact.note),
        ]
        for fact in facts
    ]  # fmt: skip
    caption = "The training text. Held-out documents are not in these counts."
    return DataTable("sources", caption, columns, body, filters=len(body) > 8) if body else None


def readings_table(readings: Sequence[PlanReading]) -> DataTable | None:
    """Return what each phase reads of each source."""
    columns = [
        Column("Phase"), Column("Source"), Column("Share", True), Column("Tokens read", True),
        Column("Times read", True),
    ]  # fmt: skip
    body = [
        [
            Cell(reading.phase),
            Cell(reading.source),
            Cell("" if reading.share is None else f"{100 * reading.share:.1f} %", reading.share),
            Cell("" if reading.tokens is None else format_count(reading.tokens), reading.tokens),
            Cell("" if reading.epochs is None else f"{reading.epochs:.2f}", reading.epochs),
        ]
        for reading in readings
    ]
    caption = "What each phase of the first member reads from each source: share of the tokens, tokens, epochs."
    return DataTable("readings", caption, columns, body, filters=len(body) > 8) if body else None


def drift_table(members: Sequence[MemberRun]) -> DataTable | None:
    """Return how far each layer of a member has moved from the checkpoint or model that it started from."""
    moved = [member for member in members if member.drift and member.second_of is None]
    columns = [Column("Part"), *(Column(member.name, True) for member in moved)]
    found = {part for member in moved for part in member.drift}
    layers = sorted((part for part in found if part.isdigit()), key=int)
    body = [
        [Cell(f"layer {part}" if part.isdigit() else part), *(number_cell(member.drift.get(part)) for member in moved)]
        for part in ("embedding", *layers, "head")
    ]
    caption = (
        "How far each part of a member has moved from its start: the Euclidean length of the change of its weights, "
        "divided by that of the weights at the start. A part that is not trained has 0."
    )
    return DataTable("drift", caption, columns, body, filters=False) if moved else None


def environment_table(members: Sequence[MemberRun]) -> DataTable | None:
    """Return the versions and the way in which each member was trained; one column where all are alike."""
    facts: dict[str, dict[str, str]] = {}
    for member in members:
        if member.second_of is None:
            facts[member.name] = _environment(member)
    facts = {name: found for name, found in facts.items() if found}
    if not facts:
        return None
    alike: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for name, found in facts.items():
        alike.setdefault(tuple(sorted(found.items())), []).append(name)
    names = list(dict.fromkeys(key for found in facts.values() for key in found))
    heads = [", ".join(group) if len(alike) > 1 else "All members" for group in alike.values()]
    body = [[Cell(name), *(Cell(dict(values).get(name, "")) for values in alike)] for name in names]
    caption = "Versions that wrote the newest checkpoints, and how the members were trained."
    return DataTable("environment", caption, [Column("What"), *map(Column, heads)], body, filters=False)


def _environment(member: MemberRun) -> dict[str, str]:
    found = dict(member.checkpoint.versions) if member.checkpoint is not None else {}
    if member.export is not None and "transformers" in member.export:
        found["transformers (export)"] = str(member.export["transformers"])
    for outcome in member.outcomes.values():
        found |= {f"{name} (evaluation)": version for name, version in outcome.result.versions.items()}
    if member.plan is not None:
        runtime = member.plan.runtime
        found |= {
            "device": str(runtime.device),
            "kernel": str(runtime.kernel),
            "precision": runtime.numbers,
            "tokens of a micro-batch": f"{runtime.microbatch_tokens:,}",
            "seed": str(member.plan.seed),
        }
    return found


def seconds_table(seconds: Mapping[str, float]) -> DataTable | None:
    """Return how long each part of the study took, where the suite kept it."""
    body = [[Cell(name), Cell(format_seconds(value), value)] for name, value in seconds.items()]
    caption = "Wall-clock time of each part, as the last command measured it; a part that was there already took none."
    table = DataTable("seconds", caption, [Column("Part"), Column("Time", True)], body, filters=len(body) > 12)
    return table if body else None


def published_table(rows: Sequence[PublishedRow]) -> DataTable:
    """Return the published values with their sources."""
    columns = [Column("Models"), Column("Measure"), Column("Size"), Column("Value", True), Column("Source")]
    body = [
        [
            Cell(row.family),
            Cell(row.measure),
            Cell(size),
            Cell(f"{'about ' if size in row.about else ''}{value:g} {row.unit}", value),
            Cell(row.source),
        ]
        for row in rows
        for size, value in row.values.items()
    ]
    caption = "Published values of other models, made with other data and budgets: no results of this study."
    return DataTable("published", caption, columns, body)
