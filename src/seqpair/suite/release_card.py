"""The cards of a release: what an export's card says, and what only the study knows of the member.

An export's own card stays as it is, up to a marker; what follows the marker, and the front matter, are written again
with every release.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seqpair.errors import PublishError
from seqpair.hub.revision import CARD_NAME, MAIN, OWNER, REVISION_NAME, Revision, repository_name
from seqpair.recipe.cost import plan_cost
from seqpair.recipe.diff import diff_plans
from seqpair.recipe.plan import Plan
from seqpair.report.member import MemberRun, collect_member, tasks_done
from seqpair.text import format_count, format_seconds

_MARKER = "<!-- What follows is written by `seqpair release`. -->"
_RULE = "---\n"
_STATED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(, ?[A-Za-z0-9][A-Za-z0-9._-]*)*")
_OUR_KEYS = ("license", "language", "datasets", "base_model")
SHOWN_DIGITS = 12
"""Digits of a revision's weights' digest in the table of revisions, by which `verify` finds a stale card."""


@dataclass(frozen=True)
class Statement:
    """What only the owner of a release can state; empty where nothing was stated, because nothing is guessed.

    Attributes:
        license: The licence's identifier, such as `mit`.
        language: The language of the text, such as `en`; several are separated by commas.
        owner: The user or organisation that it is published for.
    """

    license: str = ""
    language: str = ""
    owner: str = ""

    def __post_init__(self) -> None:
        """Check that each can stand in a card's front matter, which a line end or a colon would change.

        Raises:
            PublishError: One cannot.
        """
        for name, form in (("license", _STATED), ("language", _STATED), ("owner", OWNER)):
            if (text := getattr(self, name)) and not form.fullmatch(text):
                raise PublishError(
                    f"this {name} cannot be stated in a card",
                    seen=repr(text),
                    allowed="letters, digits, '.', '_' and '-'" + ("" if form is OWNER else "; several with commas"),
                    fix=f"correct --{name}, or leave it out",
                )

    def name_of(self, repository: str) -> str:
        """Return a repository's whole name, or the word `PATH` without an owner."""
        return f"{self.owner}/{repository}" if self.owner else "PATH"

    def front_matter(self) -> list[str]:
        """Return the lines for licence and language."""
        lines = [f"license: {self.license}"] if self.license else []
        names = ", ".join(name.strip() for name in self.language.split(",") if name.strip())
        return [*lines, *([f"language: [{names}]"] if names else [])]

    def licence_words(self) -> str:
        """Return the licence in a sentence."""
        return f"The licence is `{self.license}`." if self.license else "The authors have not stated a licence."


def order_repository(study: str) -> str:
    """Return the name of the repository of a study's order, without its owner."""
    return repository_name(study, "order")


def card_text(folder: Path, name: str, plan: Plan, statement: Statement, added: Sequence[str]) -> str:
    """Return the card of a revision: its export's card with a new front matter and the sections of the release.

    Args:
        folder: The revision's folder; its card may have been written by an earlier call.
        name: The revision's name.
        plan: The member's plan.
        statement: What the owner states.
        added: The sections that follow the export's card.
    """
    _, head, body = (folder / CARD_NAME).read_text(encoding="utf-8").split(_RULE, 2)
    kept = [line for line in head.splitlines() if line.split(":")[0] not in _OUR_KEYS]
    if statement.owner:
        # The whole name replaces PATH where code loads the model; another revision than `main` has to be named.
        which = "" if name == MAIN else f', revision="{name}"'
        body = body.replace('"PATH"', f'"{statement.name_of(repository_name(plan.study, plan.member))}"{which}')
    body = body.split(_MARKER)[0].rstrip()
    front = "\n".join([*kept, *statement.front_matter(), *_sources(plan, statement)])
    return f"{_RULE}{front}\n{_RULE}{body}\n\n{_MARKER}\n\n" + "\n\n".join(added) + "\n"


def _sources(plan: Plan, statement: Statement) -> list[str]:
    """Return the front matter's data sets and, for a member that continues another one, its base model."""
    names = sorted({source.dataset for source in plan.sources if source.dataset})
    if statement.owner:
        names.append(statement.name_of(order_repository(plan.study)))
    lines = [f"datasets: [{', '.join(names)}]"] if names else []
    if plan.start is not None and plan.start.member is not None and statement.owner:
        lines.append(f"base_model: {statement.name_of(repository_name(plan.study, plan.start.member))}")
    return lines


def revision_section(name: str, plan: Plan, statement: Statement) -> list[str]:
    """Return what the card of an earlier revision than `main` says of the release."""
    repository = repository_name(plan.study, plan.member)
    return [
        "## Revision",
        f"This is the revision `{name}` of `{repository}`, a checkpoint from the middle of its training. The card of "
        f"`{MAIN}` lists all revisions. {statement.licence_words()}",
    ]


def main_sections(
    revisions: Sequence[Revision], plans: Mapping[str, Plan], run: Path, statement: Statement
) -> list[str]:
    """Return the sections of a member's card: its twin, its revisions, results, cost, licence and citation.

    Args:
        revisions: The member's revisions, oldest first; the last one is `main`.
        plans: The plans of all members of the study.
        run: The member's run folder.
        statement: What the owner states.
    """
    main = revisions[-1]
    member, own = collect_member(run), plans[main.member]
    sections = [
        *_difference_section(own, twin_of(own, plans), plans),
        *_revisions_section(revisions, statement),
        *results_section(member, main),
        *_cost_section(member, own),
        "## Licence and citation",
        f"{statement.licence_words()} Please cite the authors of this model, and for the method *Seq vs Seq: An Open "
        "Suite of Paired Encoders and Decoders* (arXiv 2507.11412).",
    ]
    return [section for section in sections if section]


def twin_of(plan: Plan, plans: Mapping[str, Plan]) -> str:
    """Return the member that a member is compared with: of the same phases and the other direction, if there is one.

    Without one it is the member that it continues, else the first other member; empty where it is alone.
    """

    def phases(one: Plan) -> list[str]:
        return [phase.name for phase in one.phases]

    others = {name: other for name, other in plans.items() if name != plan.member}
    facing = [
        name
        for name, other in others.items()
        if phases(other) == phases(plan) and other.derived.direction != plan.derived.direction
    ]
    started = [plan.start.member] if plan.start is not None and plan.start.member in others else []
    return next(iter([*facing, *started, *others]), None) or ""


def _difference_section(plan: Plan, twin: str, plans: Mapping[str, Plan]) -> list[str]:
    if not twin:
        return []
    rows = [
        (f"`{item.path}`", _value(item.a), _value(item.b), item.reason or "not declared")
        for item in diff_plans(plan, plans[twin])
    ]
    return [
        "## What differs from its twin",
        f"`{repository_name(plan.study, twin)}` was trained from the same recipe. These are all values in which their "
        "plans differ:",
        _table(("key", plan.member, twin, "reason"), rows),
    ]


def _revisions_section(revisions: Sequence[Revision], statement: Statement) -> list[str]:
    rows = [
        (
            f"`{one.revision}`",
            f"`{one.checkpoint}`",
            format_count(one.content_tokens),
            f"{one.probe.loss:.4f}",
            "" if one.distance is None else f"{one.distance:.4g}",
            f"`{one.tensors[:SHOWN_DIGITS]}`",
        )
        for one in revisions
    ]
    main = revisions[-1]
    words = (
        f"`{REVISION_NAME}` in each revision has the SHA-256 of every file, the plan, and the probe: "
        f"{len(main.probe.sequences)} held-out sequences with fixed masks. The loss is that of the probe, in nats per "
        "predicted token. The distance is the L2 norm of the change of all weights since the revision before."
    )
    heads = ("revision", "checkpoint", "content tokens", "loss", "distance", "weights (SHA-256)")
    name = statement.name_of(main.repository)
    check = f"```bash\nseqpair verify {name}\n```"
    return [
        "## Revisions",
        _table(heads, rows),
        words,
        *([f"To check all of it:\n\n{check}"] if statement.owner else []),
    ]


def results_section(member: MemberRun, main: Revision) -> list[str]:
    """Return a member's results with their intervals; nothing unless they were measured on this checkpoint.

    Args:
        member: The member's run.
        main: Its last revision.
    """
    if not member.outcomes or member.export is None or member.export.get("checkpoint") != main.checkpoint:
        return []
    rows = []
    for task in tasks_done([member]):
        outcome = member.outcomes[task]
        result = outcome.result
        low, high = result.interval
        chance = "" if result.chance is None else f"{result.chance:.4g}"
        metric = result.metric.replace("_", " ")
        rows.append((outcome.title, metric, f"{result.value:.4g}", f"{low:.4g} to {high:.4g}", chance, f"{result.n:,}"))
    return [
        "## Results",
        "Measured with `seqpair eval` on this checkpoint, with 95 % confidence intervals over the choice of items.",
        _table(("task", "metric", "value", "95 % interval", "chance", "items"), rows),
    ]


def _cost_section(member: MemberRun, plan: Plan) -> list[str]:
    seconds = sum(point.seconds for point in member.train)
    tokens = member.train[-1].tokens if member.train else 0
    return [
        "## Cost",
        _table(
            ("training FLOPs of the plan", "content tokens read", "hours of training", "precision"),
            [
                (
                    f"{plan_cost(plan).flops:.3g}",
                    format_count(tokens),
                    f"{seconds / 3600:.3g} ({format_seconds(seconds)})",
                    plan.runtime.numbers,
                )
            ],
        ),
    ]


def order_card(study: str, readers: Mapping[str, Sequence[str]], rows: Mapping[str, int], statement: Statement) -> str:
    """Return the card of the data set of a study's order.

    Args:
        study: The study's name.
        readers: For each file, the members that were trained on it.
        rows: For each file, its rows.
        statement: What the owner states.
    """
    name = order_repository(study)
    front = "\n".join([*statement.front_matter(), "tags: [seqpair]"])
    table = _table(
        ("file", "sequences", "read by"),
        [(f"`{file}`", f"{rows[file]:,}", ", ".join(members)) for file, members in readers.items()],
    )
    first = next(iter(readers), "")
    return f"""{_RULE}{front}
{_RULE}
# {name}: the exact training order

Each file lists every training sequence between two neighbouring revisions of a member, in the order of training: phase,
step, position, source, document, piece of the document, epoch of the source, and the first checkpoint that has seen it.
Steps, positions, pieces and epochs count from 0. The order is exact: these are the sequences of each optimiser step.

```python
import pyarrow.parquet as parquet

table = parquet.read_table("PATH/{first}")
print(table.schema.names, table.num_rows)
```

`PATH` is a local copy of this data set.

{table}

{statement.licence_words()} The text itself is not part of this data set.
"""


def _value(value: object) -> str:
    return "not used" if value is None else str(value)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
