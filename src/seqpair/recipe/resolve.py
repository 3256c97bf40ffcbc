"""From a recipe to a member's plan: every count explicit, nothing left to guess."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from seqpair.errors import RecipeError
from seqpair.recipe.data_spec import TokenizerSpec
from seqpair.recipe.diff import plan_digest
from seqpair.recipe.member_spec import CHECKPOINT_NAME, ObjectivePart
from seqpair.recipe.objectives import OBJECTIVES
from seqpair.recipe.phases import bare_phase, budget_scale, phases_of, place_spans, require_member, scaled, stats_of
from seqpair.recipe.plan import (
    HeldOutPlan,
    KeepRule,
    ModelPlan,
    ObjectiveSpan,
    PhasePlan,
    Plan,
    Start,
    StoreRef,
    StoreStats,
    derived_plan,
)
from seqpair.recipe.schema import PhaseSpec, Recipe

PUBLISHED_VOCAB_SIZE = 50_368
"""The published vocabulary, padded; what a tokenizer that is not there yet is taken to have."""


def resolve_plan(
    recipe: Recipe, member: str, stats: Mapping[str, StoreStats] | None = None, vocab_size: int | None = None
) -> Plan:
    """Resolve a recipe for one member.

    Args:
        recipe: The recipe.
        member: A member's name in it.
        stats: Counts of each source's training store; without them the plan is an estimate.
        vocab_size: The padded vocabulary; without it the plan is an estimate.

    Raises:
        RecipeError: An unknown member or source, shares that do not sum to one, a schedule longer than
            its phase, a store without counts for a sequence length, a start from a checkpoint that is never made.
    """
    return resolve_plans(recipe, [member], stats, vocab_size)[member]


def resolve_plans(
    recipe: Recipe,
    members: Sequence[str],
    stats: Mapping[str, StoreStats] | None = None,
    vocab_size: int | None = None,
) -> dict[str, Plan]:
    """Resolve a recipe for several members; what they share is worked out once.

    Raises:
        RecipeError: As `resolve_plan`.
    """
    for member in members:
        require_member(recipe, member)
    resolver = _Resolver(recipe, stats, vocab_size)
    return {member: resolver.plan(member) for member in members}


class _Resolver:
    """One recipe with one set of counts; plans and phases are made once."""

    def __init__(self, recipe: Recipe, stats: Mapping[str, StoreStats] | None, vocab_size: int | None) -> None:
        self.recipe, self.stats = recipe, stats
        self.scale = budget_scale(recipe)
        self.estimated = stats is None or vocab_size is None
        known = vocab_size if vocab_size is not None else expected_vocab_size(recipe.data.tokenizer)
        self.model = ModelPlan(shape=recipe.shape, vocab_size=known, **recipe.model.model_dump())
        self.stores = tuple(_store_ref(source.name, stats) for source in recipe.data.sources)
        self._phases: dict[str, PhasePlan] = {}
        self._plans: dict[str, Plan] = {}

    def plan(self, member: str) -> Plan:
        """Return a member's plan."""
        if member not in self._plans:
            self._plans[member] = self._make(member)
        return self._plans[member]

    def _make(self, member: str) -> Plan:
        recipe = self.recipe
        # A start from another member resolves that member first; the schema has refused circles.
        start, parts = self._beginning(member)
        bare = [self._phase(phase) for phase in phases_of(recipe, member)] or [self._no_phase(member)]
        spans = place_spans(member, parts, bare)
        phases = [self._trained(member, phase, found) for phase, found in zip(bare, spans, strict=True)]
        return Plan(
            study=recipe.name,
            member=member,
            size=recipe.size_label,
            seed=recipe.seed,
            start=start,
            model=self.model,
            optimizer=recipe.optimizer,
            phases=tuple(phases),
            held_out=HeldOutPlan(sequences=recipe.held_out.sequences, mask_frac=recipe.held_out.mask_frac),
            keep=self._keep(member),
            runtime=recipe.runtime,
            sources=recipe.data.sources,
            tokenizer=recipe.data.tokenizer,
            stores=self.stores,
            # What a member is exported as follows from what it was trained with last.
            derived=derived_plan(OBJECTIVES[phases[-1].objectives[-1].objective]),
            estimated=self.estimated,
            runs=recipe.runs,
            store_folder=recipe.data.stores,
            origins=recipe.origins,
        )

    def _beginning(self, member: str) -> tuple[Start | None, Sequence[ObjectivePart]]:
        """Return what a member starts from, and the parts of its objective."""
        spec = self.recipe.members[member]
        if (given := spec.outside) is not None:
            start = Start(
                kind="folder",
                path=given.model,
                window_tokens=given.window_tokens,
                draws_head=_lacks_head(Path(given.model)),
                train_layers=spec.train_layers,
            )
            return start, spec.objective or ()
        if spec.source is None:
            return None, spec.objective or ()
        source = self.plan(spec.source)
        # Without an objective of its own a member continues with the one its checkpoint was trained with.
        trained = objective_at(source, spec.checkpoint)
        parts = spec.objective or (ObjectivePart(trained.objective, causal_frac=trained.causal_frac),)
        # The moments describe the gradients of one loss, so they are carried over only where the loss stays.
        # And moments of some layers are not those of others.
        some = spec.train_layers is not None or (source.start is not None and source.start.train_layers is not None)
        carried = "carried" if parts[0].objective == trained.objective and not some else "fresh"
        start = Start(
            kind="member",
            member=spec.source,
            checkpoint=spec.checkpoint,
            optimizer=spec.optimizer or carried,
            plan_digest=plan_digest(source),
            train_layers=spec.train_layers,
        )
        return start, parts

    def _trained(self, member: str, phase: PhasePlan, spans: tuple[ObjectiveSpan, ...]) -> PhasePlan:
        """Return a phase with a member's objectives, and its mask rate if one of them takes it."""
        own = self.recipe.members[member].mask_frac
        # A rate that nothing reads stays null: the plans of a pair must not differ in a value without effect.
        takes_it = any(OBJECTIVES[span.objective].takes_mask_frac for span in spans)
        mask_frac = (phase.mask_frac if own is None else own) if takes_it else None
        return phase.model_copy(update={"objectives": spans, "mask_frac": mask_frac})

    def _no_phase(self, member: str) -> PhasePlan:
        """Return a phase without steps, with the lengths and bases of the one that its start was trained in."""
        spec = self.recipe.members[member]
        source = self.plan(str(spec.source))
        named = CHECKPOINT_NAME.match(spec.checkpoint or "")
        tag = named[1] if named else source.phases[-1].tag
        last = next(phase for phase in source.phases if phase.tag == tag)
        nothing: dict[str, object] = {
            "name": f"untrained-{member}",  # of its own: members that share a phase are compared step by step
            "tag": "cross",
            "mask_frac": self.recipe.phases[0].mask_frac,  # no step reads it, but an objective that takes one has one
            "budget_tokens": 0,
            "steps": 0,
            "positions": 0,
            "batch_stages": (),
            "checkpoint_steps": (0,),
            "held_out_steps": (),
        }
        return last.model_copy(update=nothing)

    def _keep(self, member: str) -> KeepRule:
        spec = self.recipe.checkpoints.keep
        others = self.recipe.members.values()
        return KeepRule(
            last=spec.last,
            every_tokens=None if spec.every_tokens is None else scaled(spec.every_tokens, self.scale),
            names=tuple(sorted({str(other.checkpoint) for other in others if other.source == member} - {"None"})),
        )

    def _phase(self, phase: PhaseSpec) -> PhasePlan:
        if phase.name not in self._phases:
            self._phases[phase.name] = bare_phase(self.recipe, phase, self.stats, self.scale)
        return self._phases[phase.name]


def objective_at(plan: Plan, checkpoint: str | None) -> ObjectiveSpan:
    """Return the objective that a checkpoint of a plan was last trained with; the last one if it is null.

    In an estimate step counts are not yet known, so there only the phase is checked.

    Raises:
        RecipeError: The plan makes no checkpoint of this name.
    """
    if checkpoint is None:
        return plan.phases[-1].objectives[-1]
    named = CHECKPOINT_NAME.match(checkpoint)
    phase = next((phase for phase in plan.phases if named is not None and phase.tag == named[1]), None)
    if phase is None or named is None:
        raise RecipeError(
            f"the member '{plan.member}' makes no checkpoint '{checkpoint}'",
            seen=f"{plan.member}@{checkpoint}",
            allowed="names that begin with " + ", ".join(phase.tag for phase in plan.phases),
            fix=f"see the member's phases with `seqpair plan --member {plan.member}`",
        )
    # A checkpoint after step n was trained last by step n - 1, whose span is returned below.
    step = int(named[2])
    if not plan.estimated and step not in phase.checkpoint_steps:
        near = sorted(sorted(phase.checkpoint_steps, key=lambda made: abs(made - step))[:4])
        raise RecipeError(
            f"the member '{plan.member}' makes no checkpoint '{checkpoint}'",
            seen=f"{plan.member}@{checkpoint}",
            allowed="the nearest are " + ", ".join(f"{phase.tag}{made}" for made in near),
            fix="name one of these, or change `checkpoints.every_tokens`",
        )
    return phase.span_of(min(step, phase.steps) - 1)


def expected_vocab_size(tokenizer: TokenizerSpec) -> int:
    """Return the padded vocabulary to expect of a tokenizer that has not been loaded.

    A `tokenizer.json` that is there is read; a tokenizer to be trained has what it is asked for; else
    it is the published vocabulary.
    """
    entries = tokenizer.train_vocab_size
    if tokenizer.path is not None:
        path = Path(tokenizer.path)
        path = path / "tokenizer.json" if path.is_dir() else path
        entries = _entries(path) if path.is_file() else PUBLISHED_VOCAB_SIZE
    return math.ceil(entries / tokenizer.pad_vocab_to) * tokenizer.pad_vocab_to


def _entries(path: Path) -> int:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        # Added tokens may lie above the vocabulary; a unigram vocabulary is a list whose indices are its ids.
        ids = [int(added["id"]) for added in content.get("added_tokens", [])]
        vocab = content["model"]["vocab"]
        ids += [int(i) for i in vocab.values()] if isinstance(vocab, dict) else [len(vocab) - 1]
        return max(ids) + 1
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise RecipeError(
            f"{path} is not a tokenizer", seen=f"{type(error).__name__}: {error}", allowed="a tokenizer.json"
        ) from error


def _lacks_head(folder: Path) -> bool:
    """Return whether a folder's configuration names a class without a language-model head; a hub name's is not read."""
    try:
        classes = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures")
    except (OSError, ValueError, AttributeError):
        return False  # what is wrong with the folder is said where it is opened
    return bool(classes) and not any(str(name).endswith(("ForMaskedLM", "ForCausalLM")) for name in classes)


def _store_ref(source: str, stats: Mapping[str, StoreStats] | None) -> StoreRef:
    if stats is None:
        return StoreRef(source=source, digest="", documents=0, tokens=0)
    found = stats_of(source, stats)
    return StoreRef(source=source, digest=found.digest, documents=found.documents, tokens=found.tokens)
