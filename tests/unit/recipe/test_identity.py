import json
from pathlib import Path

import pytest

from seqpair.recipe.identity import PairIdentity, pair_identity, plan_digest
from seqpair.recipe.load import load_recipe, preset_names
from seqpair.recipe.resolve import resolve_plan

GOLDEN = Path(__file__).parents[2] / "golden" / "plan_digests.json"


TWO_SOURCES = str(Path(__file__).with_name("two_sources.yaml"))


def digest(*overrides: str, preset: str = TWO_SOURCES, member: str = "encoder") -> str:
    return plan_digest(resolve_plan(load_recipe(preset, overrides), member))


@pytest.mark.parametrize(
    "assignment",
    [
        "runtime.microbatch_tokens=100",
        "runtime.threads=1",
        "checkpoints.keep.last=1",
        "checkpoints.every_tokens=100k",
        "held_out.sequences=3",
        "runs=/elsewhere",
        "data.stores=/elsewhere",
        "name=other",
    ],
)
def test_what_changes_nothing_that_is_learned(assignment: str) -> None:
    assert digest(assignment) == digest()


@pytest.mark.parametrize(
    "assignment",
    [
        "seed=22",
        "optimizer.lr=1e-3",
        "optimizer.clip_norm=1",
        "model.attn_out_dropout=0",
        "phases.0.seq_len=256",
        "phases.0.mask_frac=0.2",
        "phases.0.batch.tokens=8k",
        "phases.0.lr.end_frac=0.1",
        "phases.0.rope_local_theta=20000",
        "phases.0.mixture={prose: {share: 0.5}, code: {share: 0.5}}",
        "budget=5M",
        "data.tokenizer.train_vocab_size=2048",
        "data.sources.code.held_out_frac=0.1",
        "size=4m",
    ],
)
def test_what_changes_what_is_learned(assignment: str) -> None:
    assert digest(assignment) != digest()


def test_members_differ() -> None:
    assert digest(member="encoder") != digest(member="decoder")


def test_a_start_counts_but_not_the_name_of_its_member() -> None:
    four = str(Path(__file__).with_name("four_phases.yaml"))
    plain = digest(preset=four, member="encoder-from-decoder")
    renamed = ["members={decoder: null, encoder-from-decoder: null, d: {objective: clm}, "]
    renamed[0] += "e: {from: d, objective: mntp, phases: [cross]}}"
    assert digest(*renamed, preset=four, member="e") == plain
    assert digest("phases.pretrain.budget_tokens=4M", preset=four, member="encoder-from-decoder") != plain
    carried = "members.encoder-from-decoder.optimizer=carried"
    assert digest(carried, preset=four, member="encoder-from-decoder") != plain
    folders = [f"members.x={{from: {folder}, objective: mlm}}" for folder in ("./a", "./b")]
    assert len({digest(folder, preset=four, member="x") for folder in folders}) == 2


def test_the_causal_share_of_a_hybrid_counts() -> None:
    shares = [f"members.x={{objective: {{hybrid: {{causal_frac: {share}}}}}}}" for share in (0.1, 0.2)]
    assert len({digest(share, member="x") for share in shares}) == 2


def test_paths_do_not_count(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "r.yaml"
        path.write_text("extends: 1m\ndata: {sources: [{name: corpus, kind: text, paths: [x.txt]}]}\n")
        found.append(digest(preset=str(path)))
    assert found[0] == found[1]


def test_golden_digests_of_all_presets() -> None:
    found = {
        f"{name}/{member}": digest(preset=name, member=member)
        for name in preset_names()
        if name != "demo"  # its numbers are tuned; the invariants hold it
        for member in load_recipe(name).members
    }
    assert found == json.loads(GOLDEN.read_text(encoding="utf-8")), (
        "a preset's plan has changed: if that was intended, write the new digests; CHANGELOG, Numerics"
    )


def identity(member: str, *overrides: str, preset: str = TWO_SOURCES) -> PairIdentity:
    return pair_identity(resolve_plan(load_recipe(preset, overrides), member))


def test_members_of_a_pair_have_one_fingerprint_at_every_seed() -> None:
    encoder, decoder = identity("encoder"), identity("decoder", "seed=22", "name=other")
    assert encoder.fingerprint == decoder.fingerprint
    assert encoder.differing(decoder) == []


@pytest.mark.parametrize(
    ("assignment", "part"),
    [
        ("optimizer.lr=1e-3", "optimizer"),
        ("size=4m", "shape"),
        ("model.attn_out_dropout=0", "model"),
        ("data.tokenizer.train_vocab_size=2048", "tokenizer"),
        ("phases.0.lr.end_frac=0.1", "phase pretrain"),
    ],
)
def test_what_makes_two_members_no_pair_is_named(assignment: str, part: str) -> None:
    found = identity("encoder").differing(identity("decoder", assignment))
    assert part in found
    assert identity("encoder").fingerprint != identity("decoder", assignment).fingerprint


def test_the_mask_rate_is_the_objectives_own() -> None:
    assert identity("encoder", "phases.0.mask_frac=0.2").differing(identity("decoder")) == []


def test_a_crossed_member_shares_all_but_its_own_phases() -> None:
    four = str(Path(__file__).with_name("four_phases.yaml"))
    encoder, crossed = (identity(name, preset=four) for name in ("encoder", "encoder-from-decoder"))
    assert not crossed.from_scratch
    assert encoder.differing(crossed) == crossed.differing(encoder) == []
    other = identity("encoder-from-decoder", "optimizer.lr=1e-3", preset=four)
    assert encoder.differing(other) == ["optimizer"]
