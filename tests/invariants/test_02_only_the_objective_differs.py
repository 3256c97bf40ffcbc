"""Invariant 2: two members' plans differ in exactly what the objectives table declares."""

import pytest

from seqpair.recipe.diff import diff_plans, require_declared
from seqpair.recipe.load import load_recipe, preset_names
from seqpair.recipe.objectives import DECLARED_DIFFERENCES
from seqpair.recipe.resolve import resolve_plan
from seqpair.recipe.stats import StoreStats

DECLARED_SET = {
    "member",
    "phases[0].mask_frac",
    "phases[0].objectives[0].objective",
    "derived.direction",
    "derived.predicts",
    "derived.ends_every_piece",
    "derived.hub_class",
    "derived.template",
    "derived.padding_side",
}


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("preset", preset_names())
def test_only_the_objective_differs(preset: str, prepared: bool) -> None:
    recipe = load_recipe(preset)
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
    encoder, decoder = (resolve_plan(recipe, member, stats, vocab_size) for member in ("encoder", "decoder"))
    differences = diff_plans(encoder, decoder)
    require_declared(differences, ("encoder", "decoder"))
    assert {difference.path for difference in differences} == DECLARED_SET
    assert len(DECLARED_DIFFERENCES) == len(DECLARED_SET)
