"""Invariant 2: two members' plans differ in exactly what the objectives table declares."""

import itertools

import pytest

from seqpair.recipe.diff import diff_plans, require_declared
from seqpair.recipe.load import load_recipe, preset_names
from seqpair.recipe.objectives import DECLARED_DIFFERENCES, DECLARED_OF_STARTS, OBJECTIVES
from seqpair.recipe.plan import StoreStats
from seqpair.recipe.resolve import resolve_plan, resolve_plans

DECLARED_OF_A_PAIR = {
    "member",
    "derived.direction",
    "derived.predicts",
    "derived.ends_every_piece",
    "derived.hub_class",
    "derived.template",
    "derived.padding_side",
}


@pytest.mark.parametrize("objective", ["mlm", "mntp", "diffusion", "prefix"])
@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("preset", preset_names())
def test_only_the_objective_differs(preset: str, prepared: bool, objective: str) -> None:
    recipe = load_recipe(preset, [f"members.other={{objective: {objective}}}"])
    stats, vocab_size = None, None
    if prepared:
        lengths = {phase.seq_len: 5_000 for phase in recipe.phases}
        stats = {
            source.name: StoreStats(
                source=source.name, digest="d", documents=900, tokens=50_000, text_bytes=150_000, sequences=lengths
            )
            for source in recipe.data.sources
        }
        vocab_size = 4096
    encoder, decoder = (resolve_plan(recipe, member, stats, vocab_size) for member in ("other", "decoder"))
    differences = diff_plans(encoder, decoder)
    require_declared(differences, ("other", "decoder"))
    keys = ["objectives[0].objective", *(["mask_frac"] if OBJECTIVES[objective].takes_mask_frac else [])]
    of_phases = {f"phases[{phase.name}].{key}" for phase in encoder.phases for key in keys}
    # What a prefix member is exported as is what a decoder is: only its objective differs.
    of_pair = {"member"} if OBJECTIVES[objective].direction == "causal" else DECLARED_OF_A_PAIR
    assert {difference.path for difference in differences} == of_pair | of_phases


def test_the_table_declares_no_more_than_a_pair_needs_and_what_some_pairs_have() -> None:
    of_all_pairs = {path for path in DECLARED_DIFFERENCES if not path.startswith("phases")} - DECLARED_OF_A_PAIR
    assert of_all_pairs == {"keep.names", "derived.also_exports"}
    assert {path for path in DECLARED_DIFFERENCES if path.startswith("phases")} == {
        "phases[*].objectives",
        "phases[*].mask_frac",
    }
    assert set(DECLARED_OF_STARTS) == {"start", "phases[*]"}


@pytest.mark.parametrize(
    "preset", [name for name in preset_names() if "encoder-from-decoder" in load_recipe(name).members]
)
def test_members_made_from_others_differ_in_what_is_declared(preset: str) -> None:
    recipe = load_recipe(preset)
    plans = resolve_plans(recipe, list(recipe.members))
    for a, b in itertools.combinations(plans, 2):
        require_declared(diff_plans(plans[a], plans[b]), (a, b))
