"""A recipe's phases: in which order members run them, and their counts in tokens, batches, steps and cadences."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence

from seqpair.errors import RecipeError
from seqpair.recipe.member_spec import ObjectivePart
from seqpair.recipe.plan import BatchStage, MixtureShare, ObjectiveSpan, PhasePlan, StoreStats
from seqpair.recipe.schedule import early_steps, ramp_stages, steps_at_cadence
from seqpair.recipe.schema import BatchSpec, PhaseSpec, Recipe
from seqpair.text import nearest

MOST_DUE = 100_000
"""Checkpoints of a phase, and looks at held-out text: a plan lists each, so more of them would fill the memory."""


def training_order(recipe: Recipe, chosen: Sequence[str] = ()) -> list[str]:
    """Return members so that each comes after the one it starts from, else in the recipe's order.

    Args:
        recipe: The recipe.
        chosen: Only these, and those that they start from; all if empty.

    Raises:
        RecipeError: A chosen member is not in the recipe.
    """
    for name in chosen:
        require_member(recipe, name)
    order: list[str] = []
    for name in [name for name in recipe.members if not chosen or name in chosen]:
        chain: list[str] = []
        here: str | None = name
        # Walk back to a start that is placed already, then append the walk from its far end.
        while here is not None and here not in order:
            chain.append(here)
            here = recipe.members[here].source
        order += reversed(chain)
    return order


def require_member(recipe: Recipe, name: str) -> None:
    """Check that a recipe has a member of this name.

    Raises:
        RecipeError: It has not.
    """
    if name not in recipe.members:
        raise RecipeError(
            f"the recipe '{recipe.name}' has no member '{name}'{nearest(name, recipe.members)}",
            seen=name,
            allowed=", ".join(recipe.members),
        )


def phases_of(recipe: Recipe, member: str) -> list[PhaseSpec]:
    """Return the phases that a member runs, in order; none for a member that is left untrained.

    Raises:
        RecipeError: There are none, or two have one tag, so that their checkpoints would have one name.
    """
    chosen = recipe.members[member].phases
    if chosen is None:
        phases = [phase for phase in recipe.phases if phase.tag != "cross"]
    else:
        by_name = {phase.name: phase for phase in recipe.phases}
        phases = [by_name[name] for name in chosen]
    if not phases and chosen is None:
        raise RecipeError(
            f"the member '{member}' runs no phase",
            seen="every phase of the recipe has tag 'cross'",
            fix=f"name its phases: members.{member}.phases",
        )
    names_of: dict[str, str] = {}
    for phase in phases:
        if phase.tag in names_of:
            raise RecipeError(
                f"two phases of the member '{member}' would name their checkpoints alike",
                seen=f"'{names_of[phase.tag]}' and '{phase.name}' both have tag '{phase.tag}'",
                allowed="one phase for each of step, ext, decay, cross",
                fix="give one of them another `tag`",
            )
        names_of[phase.tag] = phase.name
    return phases


def place_spans(
    member: str, parts: Sequence[ObjectivePart], phases: Sequence[PhasePlan]
) -> list[tuple[ObjectiveSpan, ...]]:
    """Return each phase's spans of objectives.

    The fractions are of the planned content tokens of the phases up to and including the one with tag
    `step`, or of all phases if none has it; each switch falls on the step border nearest to its
    fraction. Later phases train the last part.

    Raises:
        RecipeError: A part is so short that no step is left to it.
    """
    # Fractions are of the pretraining; what comes after it is too short to be divided.
    last = max((index for index, phase in enumerate(phases) if phase.tag == "step"), default=len(phases) - 1)
    total = sum(phase.planned_tokens(phase.steps) for phase in phases[: last + 1])
    spans: list[list[ObjectiveSpan]] = [[] for _ in phases]
    before, place = 0.0, (0, 0)
    for part in parts:
        index, step = place
        spans[index].append(ObjectiveSpan(first_step=step, objective=part.objective, causal_frac=part.causal_frac))
        before += part.frac
        ends = _nearest_border(before * total, phases[: last + 1])
        if ends <= place and total:
            raise RecipeError(
                f"no step is left to the objective '{part.objective}' of the member '{member}'",
                seen=f"a fraction of {part.frac:g}",
                fix="raise the fraction or the budget, or make the batch smaller",
            )
        place = ends
    for index, found in enumerate(spans):
        # A phase that begins inside a span, or after the last one, goes on with what the phase before it ended with.
        if not found or found[0].first_step > 0:
            found.insert(0, spans[index - 1][-1].model_copy(update={"first_step": 0}))
    return [tuple(found) for found in spans]


def _nearest_border(tokens: float, phases: Sequence[PhasePlan]) -> tuple[int, int]:
    """Return (phase, step) of the step border nearest to a number of tokens; a phase's end is the next one's start."""
    for index, phase in enumerate(phases):
        if tokens < phase.planned_tokens(phase.steps):
            after = bisect.bisect_left(range(phase.steps), tokens, key=phase.planned_tokens)
            before = max(0, after - 1)
            closer = tokens - phase.planned_tokens(before) < phase.planned_tokens(after) - tokens
            step = before if closer else after
            return (index, step) if step < phase.steps else (index + 1, 0)
        tokens -= phase.planned_tokens(phase.steps)
    return len(phases), 0


def budget_scale(recipe: Recipe) -> float:
    """Return what the `budget` dial multiplies: it sets the sum of all phases but those with tag `cross`.

    Those are read by members that start from others; they are scaled with the rest.
    """
    if recipe.budget is None:
        return 1.0
    phases = [phase for phase in recipe.phases if phase.tag != "cross"] or recipe.phases
    return recipe.budget / sum(phase.budget_tokens for phase in phases)


def scaled(tokens: int, scale: float) -> int:
    """Return a number of tokens under the `budget` dial: at least one."""
    return max(1, round(tokens * scale))


def bare_phase(recipe: Recipe, phase: PhaseSpec, stats: Mapping[str, StoreStats] | None, scale: float) -> PhasePlan:
    """Return a phase as all members have it: no objectives yet, and the phase's own mask rate."""
    mixture = _mixture(recipe, phase)
    mean = _mean_tokens(recipe, phase, mixture, stats)
    budget_tokens = scaled(phase.budget_tokens, scale)
    lr = phase.lr.model_copy(
        update={
            "warmup_tokens": round(phase.lr.warmup_tokens * scale),
            "decay_tokens": round(phase.lr.decay_tokens * scale),
        }
    )
    if lr.warmup_tokens + lr.decay_tokens > budget_tokens:
        raise RecipeError(
            f"the phase '{phase.name}' is shorter than its schedule",
            seen=f"warmup_tokens {lr.warmup_tokens} + decay_tokens {lr.decay_tokens} in budget_tokens {budget_tokens}",
            allowed="warm-up and decay within the budget",
            fix="raise budget_tokens, or set the top-level `budget`, which scales all three together",
        )
    stages, steps = _batches(phase.batch, budget_tokens, mean, scale)
    last = stages[-1]
    plan = PhasePlan(
        name=phase.name,
        tag=phase.tag,
        seq_len=phase.seq_len,
        budget_tokens=budget_tokens,
        mean_tokens=mean,
        steps=steps,
        positions=last.first_position + (steps - last.first_step) * last.sequences,
        batch_stages=stages,
        rope_global_theta=phase.rope_global_theta,
        rope_local_theta=phase.rope_local_theta,
        mask_frac=phase.mask_frac,
        mixture=mixture,
        lr=lr,
        objectives=(),
        checkpoint_steps=(),
        held_out_steps=(),
    )
    saved = _due_steps(plan, "checkpoints", scaled(recipe.checkpoints.every_tokens, scale))
    # Early checkpoints follow powers of two until the cadence takes over at its first step.
    if recipe.checkpoints.early and phase.name == recipe.phases[0].name:
        saved = [*early_steps(saved[0]), *saved]
    looked = _due_steps(plan, "held_out", scaled(recipe.held_out.every_tokens, scale))
    return plan.model_copy(update={"checkpoint_steps": tuple(saved), "held_out_steps": tuple(looked)})


def _due_steps(plan: PhasePlan, section: str, every_tokens: int) -> list[int]:
    due = min(plan.steps, plan.budget_tokens // every_tokens)
    if due > MOST_DUE:
        raise RecipeError(
            f"{section}.every_tokens is far below the budget of the phase '{plan.name}'",
            seen=f"{every_tokens:,} of {plan.budget_tokens:,} tokens: {due:,} times",
            allowed=f"at most {MOST_DUE:,} times",
            fix=f"raise {section}.every_tokens",
        )
    return steps_at_cadence(plan.planned_tokens, plan.steps, every_tokens)


def expected_mean_tokens(mean_at_1024: float, seq_len: int) -> float:
    """Return the mean content tokens of a sequence expected at a length, from the one expected at 1,024.

    Documents are taken to have exponentially distributed lengths with mean m. A document gives
    ceil(n / C) pieces for C = L - 2, of which the expectation is 1 / (1 - exp(-C / m)), so the mean piece
    is m (1 - exp(-C / m)): never above C nor m. m is found by bisection from the value at 1,024.
    Rounded to thousandths, so that the last bits of a machine's exponential do not reach a plan's digest.
    """

    def mean_piece(mean_document: float, length: int) -> float:
        return -mean_document * math.expm1(-(length - 2) / mean_document)

    low, high = 1.0, 1e7
    if mean_piece(high, 1024) <= mean_at_1024:
        return float(seq_len - 2)
    # A hundred halvings of [1, 1e7] end at the precision of a float64.
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_piece(middle, 1024) < mean_at_1024 else (low, middle)
    return round(mean_piece(high, seq_len), 3)


def stats_of(source: str, stats: Mapping[str, StoreStats]) -> StoreStats:
    """Return a source's counts.

    Raises:
        RecipeError: The source has no store.
    """
    if source not in stats:
        raise RecipeError(
            f"the source '{source}' has no store",
            allowed=", ".join(stats) or "none is there",
            fix="run seqpair prepare",
        )
    return stats[source]


def _mixture(recipe: Recipe, phase: PhaseSpec) -> tuple[MixtureShare, ...]:
    """Return the phase's mixture with shares that sum to one, or to less beside epochs."""
    sources = [source.name for source in recipe.data.sources]
    where = f"phases.{phase.name}.mixture"
    if phase.mixture is None:
        if len(sources) != 1:
            raise RecipeError(
                f"'{where}' is missing", seen=f"{len(sources)} sources", fix="give each source a share or epochs"
            )
        return (MixtureShare(source=sources[0], share=1.0),)
    for name in phase.mixture:
        if name not in sources:
            raise RecipeError(
                f"'{where}' names a source that data.sources does not have: '{name}'{nearest(name, sources)}",
                allowed=", ".join(sources) or "none; data.sources is empty",
            )
    total = math.fsum(part.share for part in phase.mixture.values() if part.share is not None)
    has_epochs = any(part.epochs is not None for part in phase.mixture.values())
    if has_epochs and total >= 1.0:
        raise RecipeError(
            f"the shares of '{where}' leave nothing for its epochs", seen=f"{total:g}", allowed="a sum below 1"
        )
    if not has_epochs and abs(total - 1.0) > 0.005:
        raise RecipeError(f"the shares of '{where}' do not sum to 1", seen=f"{total:g}", allowed="1, within 0.005")
    # Beside epochs the shares stay as they are, since the epochs take what is left of one.
    scale = 1.0 if has_epochs else 1.0 / total
    return tuple(
        MixtureShare(source=name, share=None if part.share is None else part.share * scale, epochs=part.epochs)
        for name, part in phase.mixture.items()
    )


def _mean_tokens(
    recipe: Recipe, phase: PhaseSpec, mixture: tuple[MixtureShare, ...], stats: Mapping[str, StoreStats] | None
) -> float:
    """Return the content tokens of the mixture's mean sequence.

    Shares w_s are of content tokens, so a sequence of source s comes w_s / mean_s times a token, and the
    mean is 1 / sum(w_s / mean_s). Epochs count as tokens: what the shares leave is split in proportion to
    epochs * tokens.
    """
    if stats is None:
        return expected_mean_tokens(recipe.data.expected_mean_tokens, phase.seq_len)
    found = {part.source: stats_of(part.source, stats) for part in mixture}
    for source, store in found.items():
        if not store.sequences.get(phase.seq_len):
            raise RecipeError(
                f"the store of '{source}' has no sequences of length {phase.seq_len}",
                seen=f"counts for {sorted(store.sequences)}",
                fix="run seqpair prepare with this recipe",
            )
    epoch_tokens = {part.source: part.epochs * found[part.source].tokens for part in mixture if part.epochs is not None}
    left = 1.0 - math.fsum(part.share for part in mixture if part.share is not None)
    inverse = 0.0
    for part in mixture:
        share = part.share
        if share is None:
            share = left * epoch_tokens[part.source] / math.fsum(epoch_tokens.values())
        inverse += share / found[part.source].mean_tokens(phase.seq_len)
    return 1.0 / inverse


def _batches(batch: BatchSpec, budget_tokens: int, mean: float, scale: float) -> tuple[tuple[BatchStage, ...], int]:
    """Return the batch stages and the number of steps; the last step is the one nearest to the budget."""
    final = _sequences(batch.sequences, batch.tokens, mean)
    ramp = batch.ramp
    sizes = [(0, final)]
    if ramp is not None:
        first = _sequences(ramp.from_sequences, ramp.from_tokens, mean)
        if first > final:
            raise RecipeError(
                "the batch ramp does not grow", seen=f"from {first} to {final} sequences", allowed="from <= to"
            )
        sizes = ramp_stages(first, final, ramp.over_tokens * scale / mean)
    needed = budget_tokens / mean
    stages: list[BatchStage] = []
    step = position = 0
    for stage_steps, sequences in sizes:
        # The budget may end within the ramp; at least one step is made in any case.
        left = max(1 if not stages else 0, round((needed - position) / sequences))
        if left == 0:
            break
        stages.append(BatchStage(first_step=step, first_position=position, sequences=sequences))
        taken = min(stage_steps, left) if stage_steps else left
        step, position = step + taken, position + taken * sequences
        if taken == left:
            break
    return tuple(stages), step


def _sequences(sequences: int | None, tokens: int | None, mean: float) -> int:
    return sequences if sequences is not None else max(1, round((tokens or 0) / mean))
