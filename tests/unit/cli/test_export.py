"""`seqpair export`: every checkpoint at once, further formats, and what it prints."""

from __future__ import annotations

import json

import pytest
from checkpointed_run import plan_for, small_tokenizer, write_run_of

from seqpair.hub.export import read_export_record


@pytest.fixture
def run_of_two(tmp_path):
    """A run with two checkpoints."""
    tokenizer, folder = small_tokenizer(), tmp_path / "tiny" / "decoder"
    plan = plan_for("clm", tokenizer.vocab_size)
    shorter = plan.phases[0].model_copy(update={"steps": 4, "checkpoint_steps": (4,), "held_out_steps": (4,)})
    for one in (plan.model_copy(update={"phases": (shorter,)}), plan):
        write_run_of(folder, one, tokenizer)
    return folder


def test_all_kept_checkpoints_go_to_a_folder_each_and_are_not_exported_twice(seqpair, run_of_two, tmp_path):
    code, out, err = seqpair("export", run_of_two, tmp_path / "out", "--all", "--dtype", "bf16", "--json")
    assert code == 0, err
    reports = json.loads(out)
    assert [report["checkpoint"] for report in reports] == ["step4", "step10"]
    assert all(report["formats"]["bf16"]["equal_argmax"] > 0.8 for report in reports)
    folders = sorted((tmp_path / "out" / "decoder").iterdir())
    assert [read_export_record(folder)["checkpoint"] for folder in folders] == ["step10", "step4"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    code, out, err = seqpair("export", run_of_two, tmp_path / "out", "--all")
    assert (code, out) == (0, "")
    assert err.count("exported already") == 2
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_a_format_that_cannot_hold_the_member_exits_with_the_code_of_exports(seqpair, run_of_two, tmp_path):
    code, out, err = seqpair("export", run_of_two, tmp_path / "out", "--format", "gguf")
    assert (code, out) == (6, "")
    assert "llama.cpp has no graph" in err
    assert not (tmp_path / "out").exists()
