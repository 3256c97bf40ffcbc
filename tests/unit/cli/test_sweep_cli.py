"""The verb `sweep`: what a dry run lists, and that faults are one message."""

from __future__ import annotations

import json


def test_a_dry_run_lists_runs_and_tokens_and_makes_nothing(tiny_study, seqpair):
    code, out, _ = seqpair("sweep", tiny_study.recipe, "--over", "phases.pretrain.mask_frac=0.2,0.4", "--dry-run")
    assert code == 0
    assert "touches encoder only" in out
    assert out.count("tokens, to do") == 3
    assert "2 points, 3 runs, " in out
    assert "(estimated: the stores are not prepared)" in out
    assert not (tiny_study.folder / "runs").exists()
    assert not (tiny_study.folder / "stores").exists()


def test_a_dry_run_as_json_adds_up(tiny_study, seqpair):
    words = ("--over", "optimizer.lr=1e-3,2e-3", "--over", "seed=1,2", "--members", "decoder", "--dry-run", "--json")
    code, out, _ = seqpair("sweep", tiny_study.recipe, *words)
    assert code == 0
    planned = json.loads(out)
    assert [point["point"] for point in planned["points"]] == [
        "lr-0p001__seed-1", "lr-0p001__seed-2", "lr-0p002__seed-1", "lr-0p002__seed-2"
    ]  # fmt: skip
    assert planned["tokens"] == planned["tokens_to_do"] == sum(run["tokens"] for run in planned["runs"])
    assert {run["member"] for run in planned["runs"]} == {"decoder"}


def test_a_fault_is_one_message_and_code_two(tiny_study, seqpair):
    code, out, err = seqpair("sweep", tiny_study.recipe, "--over", "data.tokenizer.train_vocab_size=400,500")
    assert (code, out) == (2, "")
    assert err.startswith("error: a sweep does not vary the data")


def test_results_are_printed_as_json_or_as_tables(prepared_study, seqpair, tmp_path):
    words = ("sweep", prepared_study.recipe, "--over", "optimizer.lr=3e-3,9e-3", "--members", "decoder")
    words = (*words, "--set", "budget=2k", "--set", f"runs={tmp_path}")
    code, out, _ = seqpair(*words, "--json")
    assert code == 0
    assert json.loads(out)["curves"][0]["unit"] == "bits per byte"
    code, out, _ = seqpair(*words)
    assert code == 0
    assert "decoder: held-out text at the end of training" in out
    assert "of the grid: a better one may lie" in out
    assert "At the shared setting, the recipe's own. decoder: lr 0.003." in out
