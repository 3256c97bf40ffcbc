"""Plans and runs in words: what was trained, what the members share, how each of them went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from seqpair.recipe.diff import Difference, diff_plans
from seqpair.recipe.objectives import OBJECTIVES
from seqpair.recipe.plan import PhasePlan, Plan
from seqpair.recipe.schedule import MaskCurve
from seqpair.recipe.sizes import parameter_count
from seqpair.report.collect import Study
from seqpair.report.member import MemberRun
from seqpair.text import format_bytes, format_count, format_seconds


@dataclass(frozen=True)
class Fact:
    """A name and what is known, in words."""

    name: str
    value: str


@dataclass(frozen=True)
class SharedFact:
    """One aspect of the plans: each member's value in words, and whether all are equal."""

    name: str
    values: dict[str, str]

    @property
    def same(self) -> bool:
        """Return whether all members have it alike."""
        return len(set(self.values.values())) == 1


@dataclass(frozen=True)
class SourceFact:
    """A source: what its training store holds; `note` names the interpreter or what was rejected."""

    name: str
    kind: str
    documents: int
    tokens: int
    text_bytes: int | None
    note: str


@dataclass(frozen=True)
class PlanReading:
    """What a phase reads of a source: its share of the phase's tokens, tokens, and how many times over."""

    phase: str
    source: str
    share: float | None
    tokens: float | None
    epochs: float | None


@dataclass(frozen=True)
class PhaseTree:
    """A phase with what it reads, for the tree of the data."""

    name: str
    words: str
    readings: tuple[PlanReading, ...]


def plan_differences(members: Sequence[MemberRun]) -> dict[str, list[Difference]]:
    """Return what every other member's plan differs in from the first member's; empty if there are not two plans."""
    planned = [(member.name, member.plan) for member in members if member.plan is not None and member.second_of is None]
    return {name: diff_plans(planned[0][1], plan) for name, plan in planned[1:]} if planned else {}


def phase_trees(study: Study) -> list[PhaseTree]:
    """Return the first member's phases, each with what it reads of the sources."""
    plan = next((member.plan for member in study.members if member.plan is not None), None)
    if plan is None:
        return []
    stores = {store.source: store for store in plan.stores}
    trees = []
    for phase in plan.phases:
        total = phase.planned_tokens(phase.steps)
        readings = []
        for part in phase.mixture:
            store = stores.get(part.source)
            read = part.share * total if part.share is not None else None
            if read is None and part.epochs is not None and store is not None:
                read = part.epochs * store.tokens
            share = part.share if part.share is not None else None if read is None else min(1.0, read / total)
            epochs = None if read is None or store is None or not store.tokens else read / store.tokens
            readings.append(PlanReading(phase.name, part.source, share, read, epochs))
        trees.append(PhaseTree(phase.name, _phase_words(phase), tuple(readings)))
    return trees


def shared_facts(members: Sequence[MemberRun]) -> list[SharedFact]:
    """Return the aspects that a pair must share, each taken from every member's own plan and checkpoint."""
    plans = {member.name: member.plan for member in members if member.plan is not None and member.second_of is None}
    facts = {name: _plan_facts(plan) for name, plan in plans.items()}
    aspects = list(dict.fromkeys(aspect for of_member in facts.values() for aspect in of_member))
    shared = [
        SharedFact(aspect, {name: of[aspect] for name, of in facts.items() if aspect in of}) for aspect in aspects
    ]
    tokenizers = {member.name: member.checkpoint.tokenizer_digest[:16] for member in members if member.checkpoint}
    if tokenizers:
        shared.append(SharedFact("Tokenizer digest", tokenizers))
    return shared


def _plan_facts(plan: Plan) -> dict[str, str]:
    shape, model, optimizer = plan.model.shape, plan.model, plan.optimizer
    count = parameter_count(shape, model.vocab_size)
    facts = {
        "Size": f"{plan.size}: {shape.layers} layers, width {shape.width}, inner width {shape.inner}, "
        f"{shape.heads} heads",
        "Parameters": f"{count.total:,}, of which {count.non_embedding:,} outside the token table",
        "Vocabulary": f"{model.vocab_size:,} rows",
        "Attention": f"every {model.global_every}rd layer global, the others {model.window_tokens} tokens to each "
        "visible side"
        if model.global_every == 3
        else f"one layer in {model.global_every} global, the others {model.window_tokens} tokens to each visible side",
        "Initial weights": f"{model.init}, keyed by seed {plan.seed}",
        "Optimiser": f"{optimizer.name}, peak rate {optimizer.lr:g}, betas {optimizer.beta1:g} and "
        f"{optimizer.beta2:g}, weight decay {optimizer.weight_decay:g}",
        "Data": ", ".join(f"{store.source} {store.digest[:12]}" for store in plan.stores) or "not prepared",
        "Numbers": f"{plan.runtime.numbers} on {plan.runtime.device}",
    }
    for phase in plan.phases:
        facts[f"Phase {phase.name}"] = _phase_words(phase)
    return facts


def _phase_words(phase: PhasePlan) -> str:
    if not phase.steps:
        return "no step: the start is unchanged"
    mixture = ", ".join(
        f"{part.source} {100 * part.share:g} %" if part.share is not None else f"{part.source} {part.epochs:g} epochs"
        for part in phase.mixture
    )
    batch = phase.batch_stages[-1].sequences
    return (
        f"{phase.steps:,} steps of {batch:,} sequences of at most {phase.seq_len:,} tokens, "
        f"about {format_count(phase.planned_tokens(phase.steps))} content tokens; {mixture}; rate: "
        f"{phase.lr.curve.replace('_', ' ')}"
    )


def _rate_text(rate: float | MaskCurve) -> str:
    if isinstance(rate, MaskCurve):
        return f", mask rate {rate}"
    return f", {100 * rate:g} % of the tokens chosen"


def member_facts(member: MemberRun) -> list[Fact]:
    """Return how one member went: objective, steps, tokens, speed, checkpoint, and the proof of its export."""
    facts: list[Fact] = []
    if member.second_of is not None:
        facts.append(
            Fact("What it is", f"the second export of {member.second_of}: the same weights, read as {member.objective}")
        )
    elif member.plan is not None:
        last = member.plan.phases[-1]
        objectives = " then ".join(dict.fromkeys(span.objective for p in member.plan.phases for span in p.objectives))
        rate = _rate_text(last.mask_frac) if last.mask_frac is not None else ""
        facts.append(Fact("Objective", f"{objectives} ({member.plan.derived.direction}{rate})"))
        if remark := OBJECTIVES[last.objectives[-1].objective].remark:
            facts.append(Fact("Its figures", remark))
        facts.append(Fact("Started from", member.plan.start.place if member.plan.start else "scratch"))
    if member.train:
        tokens, seconds = member.train[-1].tokens, sum(point.seconds for point in member.train)
        facts.append(Fact("Read", f"{format_count(tokens)} content tokens in {len(member.train):,} steps"))
        speed = median(point.tokens_per_second for point in member.train)
        facts.append(Fact("Training steps took", f"{format_seconds(seconds)}, at a median of {speed:,.0f} tokens/s"))
        waste = sum(point.waste_frac for point in member.train) / len(member.train)
        facts.append(Fact("Padding and dummies", f"{100 * waste:.1f} % of the positions computed"))
    if member.checkpoint is not None:
        size = sum(entry.bytes for entry in member.checkpoint.files.values())
        facts.append(Fact("Newest checkpoint", f"{member.checkpoint.name} ({format_bytes(size)})"))
    if member.export is not None:
        facts.append(
            Fact("Exported as", f"{member.export.get('class', '?')} from {member.export.get('checkpoint', '?')}")
        )
        facts.append(Fact("Proof of the export", _proof_words(member)))
    return facts


def _proof_words(member: MemberRun) -> str:
    record = member.export or {}
    difference, tolerance = record.get("max_abs_difference"), record.get("tolerance")
    if not isinstance(difference, (int, float)) or not isinstance(tolerance, (int, float)):
        return "the record contains no difference"
    words = f"reloaded, its logits differ by at most {difference:.1e} (allowed: {tolerance:.0e})"
    checked = record.get("checked_texts")
    return f"{words}, on {checked} texts" if checked is not None else words


def source_facts(study: Study) -> list[SourceFact]:
    """Return the training stores in words; from the plan alone where the stores are not here."""
    plan = next((member.plan for member in study.members if member.plan is not None), None)
    facts = []
    for store in plan.stores if plan is not None else ():
        manifest = study.stores.get(store.source)
        notes = []
        if manifest is not None and manifest.python_version:
            notes.append(f"Python {manifest.python_version}'s standard library")
        if manifest is not None and manifest.rejected:
            notes.append("rejected: " + ", ".join(f"{count:,} {why}" for why, count in manifest.rejected.items()))
        kind = "" if manifest is None else f"{manifest.kind} {manifest.part or ''}".strip()
        facts.append(
            SourceFact(
                name=store.source,
                kind=kind,
                documents=store.documents,
                tokens=store.tokens,
                text_bytes=None if manifest is None else manifest.text_bytes,
                note="; ".join(notes),
            )
        )
    return facts


def order_words(study: Study) -> list[str]:
    """Return what the ledgers prove, one sentence for each member that is compared with the first."""
    words = []
    for check in study.order:
        first, name, compared = check.first, check.second, check.comparison
        if compared.parts_at is not None:
            here, _ = compared.parts_at
            words.append(f"{first} and {name} part at {here.phase} step {here.step}: they read different sequences.")
        elif compared.common_steps == 0:
            words.append(f"{first} and {name} have no step in common.")
        elif compared.without_digest < compared.common_steps:
            words.append(
                f"{first} and {name} read the same sequences: the ledgers' digests, over positions and content, are "
                f"equal at all {compared.common_steps - compared.without_digest:,} common steps."
            )
        if compared.without_digest and compared.parts_at is None:
            words.append(
                f"{first} and {name} are recorded in two formats of ledgers at {compared.without_digest:,} steps, of "
                "which positions and tokens are equal; `seqpair verify` reads each from the stores."
            )
        lone = compared.only_first + compared.only_second
        if lone:
            words.append(f"{lone:,} steps are in one of the two ledgers only.")
    return words
