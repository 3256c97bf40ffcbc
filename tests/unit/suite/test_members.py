"""Members of every kind through chained phases: order of training, carried and fresh optimisers, equal sequences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from tiny import write_tiny_study

from seqpair.data.order.ledger import Ledger, compare_ledgers
from seqpair.errors import CheckpointError, SeqpairError
from seqpair.recipe.load import load_recipe
from seqpair.suite import study as study_module
from seqpair.suite.places import find_study
from seqpair.suite.study import run_study


def phase(name: str, tag: str, rest: str) -> str:
    """One later phase of the recipe, as YAML flow: long sequences, high RoPE bases."""
    mixture = "{notes: {share: 0.5}, tales: {share: 0.5}}"
    bases = "rope_global_theta: 160000, rope_local_theta: 160000"
    head = f"name: {name}, tag: {tag}, seq_len: 192, budget_tokens: 4k, mixture: {mixture}, {bases}"
    return f"  - {{{head}, batch: {{sequences: 8}}, {rest}}}\n"


PHASES = (
    """\
extends: tiny.yaml
phases:
  - name: pretrain
    tag: step
    seq_len: 96
    budget_tokens: 8k
    mixture: {notes: {share: 0.6}, tales: {share: 0.4}}
    batch: {sequences: 16}
    lr: {curve: warmup_stable_decay, warmup_tokens: 1k}
"""
    + phase("extend", "ext", "lr: {curve: one_minus_sqrt, start_frac: 1.0, end_frac: 0.5}")
    + phase("decay", "decay", "mask_frac: 0.15, lr: {curve: one_minus_sqrt, start_frac: 0.5, end_frac: 0.02}")
    + phase(
        "cross",
        "cross",
        "mask_frac: 0.15, "
        "lr: {curve: warmup_stable_decay, start_frac: 0.5, end_frac: 0.02, warmup_tokens: 400, decay_tokens: 1k}",
    )
    + """\
checkpoints: {every_tokens: 2k}
members:
  encoder-from-decoder: {from: decoder, objective: mntp, phases: [cross]}
  decoder-from-encoder: {from: encoder, objective: clm, phases: [cross]}
  biphasic: {objective: [{clm: 0.25}, {mlm: 0.75}]}
  both: {objective: {hybrid: {causal_frac: 0.25}}}
  early-decay: {from: decoder@step4, objective: clm, phases: [decay]}
"""
)
SCRATCH = ("encoder", "decoder", "biphasic", "both")
CROSS = ("encoder-from-decoder", "decoder-from-encoder")


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """The recipe of seven members, with every one of them trained; nothing exported."""
    study = write_tiny_study(tmp_path_factory.mktemp("members"))
    recipe = study.folder / "members.yaml"
    recipe.write_text(PHASES, encoding="utf-8")
    patch = pytest.MonkeyPatch()
    patch.setattr(study_module, "export_part", lambda plan: None)
    patch.setattr(study_module, "evaluate_part", lambda plan, more: None)
    try:
        outcome = run_study(find_study(str(recipe)))
    finally:
        patch.undo()
    assert outcome.finished
    return recipe, study.folder / "runs" / "tiny"


def checkpoint(run: Path, name: str) -> dict:
    folder = run / "checkpoints" / name
    return {
        "model": load_file(folder / "model.safetensors"),
        "optimizer": json.loads((folder / "state.json").read_text())["optimizer"],
        "manifest": json.loads((folder / "manifest.json").read_text()),
    }


def last_name(run: Path, tag: str) -> str:
    names = [path.name for path in (run / "checkpoints").iterdir() if path.name.startswith(tag)]
    return max(names, key=lambda name: int(name.removeprefix(tag)))


def test_from_scratch_members_see_the_same_sequences_in_all_phases(members):
    _, root = members
    ledgers = [Ledger(root / member / "ledger.jsonl") for member in SCRATCH]
    phases = {record.phase for record in ledgers[0].records()}
    assert phases == {"pretrain", "extend", "decay"}
    for other in ledgers[1:]:
        comparison = compare_ledgers(ledgers[0], other)
        assert comparison.same
        assert comparison.only_first == comparison.only_second == 0


def test_cross_members_and_branches_read_their_phase_as_everybody_does(members):
    _, root = members
    first, second = (Ledger(root / member / "ledger.jsonl") for member in CROSS)
    assert compare_ledgers(first, second).same
    branch, whole = (Ledger(root / member / "ledger.jsonl") for member in ("early-decay", "decoder"))
    assert compare_ledgers(branch, whole).same


def test_the_optimiser_is_carried_through_phases_and_fresh_for_a_cross_member(members):
    _, root = members
    decoder, crossed = root / "decoder", root / "encoder-from-decoder"
    whole = checkpoint(decoder, last_name(decoder, "decay"))
    steps = whole["manifest"]["total_steps"]
    assert whole["optimizer"]["steps_done"] == steps
    cross = checkpoint(crossed, last_name(crossed, "cross"))
    assert cross["optimizer"]["steps_done"] == cross["manifest"]["phase_step"] == cross["manifest"]["total_steps"]
    branch = checkpoint(root / "early-decay", last_name(root / "early-decay", "decay"))
    assert branch["optimizer"]["steps_done"] == 4 + branch["manifest"]["phase_step"]


def test_a_cross_member_starts_from_the_other_ones_last_weights(members):
    """Its first step moves the weights by no more than its first rate allows: they lie close to the start's."""
    _, root = members
    start = checkpoint(root / "decoder", last_name(root / "decoder", "decay"))["model"]
    run = root / "encoder-from-decoder"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    moved = sum(row["lr"] for row in rows if row["kind"] == "train")
    end = checkpoint(run, last_name(run, "cross"))["model"]
    scratch = checkpoint(root / "encoder", last_name(root / "encoder", "decay"))["model"]
    name = "backbone.layers.1.mlp.wi.weight"
    assert abs(end[name] - start[name]).max() <= 3 * moved
    assert abs(end[name] - start[name]).mean() < 0.5 * abs(end[name] - scratch[name]).mean()


def test_a_schedule_switches_at_its_step_and_a_hybrid_predicts_between_the_two(members):
    _, root = members

    def predicted(member: str) -> list[int]:
        lines = (root / member / "metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        return [row["predicted"] for row in rows if row["kind"] == "train" and row["phase"] == "pretrain"]

    encoder, decoder, biphasic, both = (predicted(member) for member in SCRATCH)
    plan = json.loads((root / "biphasic" / "plan.json").read_text())
    switch = plan["phases"][0]["objectives"][1]["first_step"]
    assert 0 < switch < len(encoder)
    assert biphasic == decoder[:switch] + encoder[switch:]
    assert all(low < middle < high for low, middle, high in zip(encoder, both, decoder, strict=True))


def test_the_rates_meet_at_the_borders_and_nothing_is_multiplied(members):
    _, root = members
    rows = [json.loads(line) for line in (root / "encoder" / "metrics.jsonl").read_text().splitlines()]
    train = [row for row in rows if row["kind"] == "train"]
    ends = {row["phase"]: row["lr"] for row in train}
    assert ends == pytest.approx({"pretrain": 3e-3, "extend": 1.5e-3, "decay": 0.02 * 3e-3}, rel=1e-9)


def test_a_member_without_its_start_says_what_to_train(members, tmp_path):
    recipe, _ = members
    with pytest.raises(SeqpairError, match="train decoder"):
        study_only(recipe, tmp_path, "encoder-from-decoder")


def study_only(recipe: Path, runs: Path, member: str) -> None:
    """Train one member alone, as `seqpair train` does."""
    from seqpair.data.prepared import open_recipe_data
    from seqpair.data.store.counts import plan_member
    from seqpair.distributed.world import start_world
    from seqpair.suite.starts import start_finder
    from seqpair.train.loop import train_member

    loaded = load_recipe(str(recipe), [f"runs={runs}"])
    prepared = open_recipe_data(loaded)
    with start_world("cpu") as world:
        train_member(plan_member(loaded, member), prepared, world, start_finder(prepared))


def test_a_start_trained_by_another_plan_is_refused(members, tmp_path):
    recipe, root = members
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "decoder").symlink_to(root / "decoder")
    changed = recipe.with_name("changed.yaml")
    changed.write_text("extends: members.yaml\noptimizer: {lr: 1e-3}\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match="another plan"):
        study_only(changed, tmp_path, "encoder-from-decoder")
