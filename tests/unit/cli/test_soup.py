from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from checkpointed_run import plan_for, random_state, small_tokenizer
from safetensors.torch import load_file

from seqpair.checkpoint.catalog import latest_valid
from seqpair.checkpoint.manifest import CheckpointFields
from seqpair.checkpoint.store import load_checkpoint, save_checkpoint
from seqpair.recipe.diff import plan_digest


def write_checkpoints(run: Path, objective: str) -> None:
    """Write a run with three checkpoints of different random weights."""
    tokenizer = small_tokenizer()
    plan = plan_for(objective, tokenizer.vocab_size, layers=2)
    tokenizer.save(run / "tokenizer")
    for step in (4, 8, 10):
        fields = CheckpointFields(
            study=plan.study,
            member=plan.member,
            phase="pretrain",
            tag="step",
            phase_step=step,
            total_steps=step,
            content_tokens=100 * step,
            positions={"pretrain": 4 * step},
            plan=plan,
            plan_digest=plan_digest(plan),
            tokenizer_digest=tokenizer.digest,
            store_digests={},
            versions={},
        )
        save_checkpoint(run, fields, model=random_state(plan, seed=step), optimizer={}, state={})


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_a_soup_is_exported_like_a_checkpoint(seqpair, tmp_path, objective):
    run = tmp_path / "study" / "member"
    write_checkpoints(run, objective)
    code, out, _ = seqpair("soup", run, "--last", "2", "--weights", "exponential:0.5", "--out", "mix")
    assert code == 0
    assert out.splitlines()[0] == f"{run}/soups/mix: average of 2 checkpoints, exponential:0.5"
    assert [line.split()[:3] for line in out.splitlines()[1:]] == [
        ["step8", "weight", "0.333333"],
        ["step10", "weight", "0.666667"],
    ]
    assert latest_valid(run).name == "step10"
    code, out, err = seqpair("export", run / "soups" / "mix", tmp_path / "export", "--json")
    assert code == 0, err
    assert json.loads(out)["checkpoint"] == "mix"
    assert "exponential:0.5 average of step8, step10" in (tmp_path / "export" / "README.md").read_text()
    exported = load_file(tmp_path / "export" / "model.safetensors")
    name = next(name for name in exported if "tok_embeddings" in name)
    parts = [load_checkpoint(run / "checkpoints" / f"step{step}", model_only=True).model for step in (8, 10)]
    key = next(key for key, values in parts[0].items() if values.shape == exported[name].shape)
    mean = (parts[0][key].double() / 3 + parts[1][key].double() * 2 / 3).float()
    assert torch.allclose(exported[name], mean, rtol=0, atol=1e-7)
    assert not torch.equal(exported[name], parts[1][key])


def test_json_is_the_manifest_without_the_plan(seqpair, tmp_path):
    run = tmp_path / "study" / "member"
    write_checkpoints(run, "clm")
    code, out, _ = seqpair("soup", run, "--checkpoints", "step10, step4", "--out", "two", "--json")
    assert code == 0
    shown = json.loads(out)
    assert shown["folder"] == str(run / "soups" / "two")
    assert [(part["name"], part["weight"]) for part in shown["soup"]["parts"]] == [("step4", 0.5), ("step10", 0.5)]
    assert "plan" not in shown


def test_a_member_has_to_be_said_where_there_are_several(seqpair, tmp_path, prepared_study):
    code, _, err = seqpair("soup", prepared_study.recipe, "--last", "2", "--out", "x")
    assert code == 2
    assert "allowed: encoder, decoder" in err
    code, _, err = seqpair("soup", prepared_study.recipe, "--member", "encoder", "--last", "2", "--out", "x")
    assert code == 2
    assert "none was made yet" in err
    assert not (prepared_study.folder / "runs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--out", "x"), "seen: neither"),
        (("--out", "x", "--last", "2", "--checkpoints", "step4"), "seen: both"),
        (("--out", "x", "--last", "2", "--weights", "best"), "these weights are not known"),
        (("--out", "../x", "--last", "2"), "cannot be a soup's folder"),
        (("--out", "x", "--checkpoints", "step5"), "allowed: step4, step8, step10"),
    ],
)
def test_bad_orders_are_refused(seqpair, tmp_path, words, message):
    run = tmp_path / "study" / "member"
    write_checkpoints(run, "clm")
    code, out, err = seqpair("soup", run, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert not (run / "soups").exists()
