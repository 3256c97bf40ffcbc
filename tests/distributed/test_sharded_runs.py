"""Whole runs with sharded parameters on several ranks learn what one rank learns, and load each other's checkpoints."""

from __future__ import annotations

import json
import shutil

import pytest
from sharded import RAMP, rows, train

HYBRID_OBJECTIVE = ["--member", "mixed", "--set", "members.mixed={objective: {hybrid: {causal_frac: 0.25}}}"]
MEMBERS = {"encoder": ["--member", "encoder"], "decoder": ["--member", "decoder"], "mixed": HYBRID_OBJECTIVE}
WORLDS = [(2, "none", 1), (4, "none", 1), (2, "full", 1), (4, "full", 1), (4, "hybrid", 2)]
BYTES_PROGRAM = """
import json, os
from pathlib import Path
from seqpair.cli.app import main
from seqpair.paths import run_folder
from seqpair.train import loop
close = loop._Loop.close
def weighed(self):
    state = [tensor.to_local() if hasattr(tensor, "placements") else tensor
             for tensor in self.run.optimizer.tensor_state().values()]
    path = run_folder(self.run.plan) / f"bytes{self.run.world.rank}.json"
    path.write_text(json.dumps(sum(tensor.untyped_storage().nbytes() for tensor in state)))
    close(self)
loop._Loop.close = weighed
main()
"""


def require_same(run, other, *, first_step=0):
    """Compare the training rows of two runs after a step."""
    own, theirs = ([row for row in rows(one) if row["total_step"] > first_step] for one in (run, other))
    assert len(own) == len(theirs) >= 20
    for row, expected in zip(own, theirs, strict=True):
        for name in ("loss", "grad_norm", "update_rms"):
            assert row[name] == pytest.approx(expected[name], rel=1e-5), (row["total_step"], name)
        assert row["clipped_frac"] == expected["clipped_frac"]
    assert (run / "ledger.jsonl").read_bytes() == (other / "ledger.jsonl").read_bytes()


@pytest.fixture(scope="module", params=list(MEMBERS))
def alone(request, prepared_study, tmp_path_factory):
    """The member, and its run on one rank."""
    runs = tmp_path_factory.mktemp("alone")
    return request.param, train(prepared_study.recipe, runs, 1, *MEMBERS[request.param], *RAMP)


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "sharding", "machines"), WORLDS)
def test_any_ranks_and_any_sharding_learn_what_one_rank_learns(
    prepared_study, tmp_path, alone, ranks, sharding, machines
):
    member, reference = alone
    sharded = f"runtime.sharding={sharding}"
    words = [*MEMBERS[member], *RAMP, "--set", sharded]
    run = train(prepared_study.recipe, tmp_path, ranks, *words, machines=machines)
    assert len(rows(run)) >= 50
    if ranks == 4:  # in steps of fewer sequences some ranks have one without targets only
        assert all(row["waste_frac"] > 0 for row in rows(run)[:2])
    require_same(run, reference)
    for held, expected in zip(rows(run, "held_out"), rows(reference, "held_out"), strict=True):
        assert held["loss"] == pytest.approx(expected["loss"], rel=1e-5)


@pytest.fixture(scope="module")
def long_runs(prepared_study, tmp_path_factory):
    """The decoder on four ranks, whole and sharded."""
    folder = tmp_path_factory.mktemp("long")
    return {
        kind: train(prepared_study.recipe, folder / kind, 4, *RAMP, "--set", f"runtime.sharding={kind}")
        for kind in ("none", "full")
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("saved", "ranks", "sharding"),
    [("full", 1, "none"), ("full", 2, "full"), ("full", 3, "full"), ("full", 4, "none"), ("none", 4, "full")],
)
def test_a_checkpoint_loads_into_any_sharding_and_any_number_of_ranks(
    prepared_study, tmp_path, long_runs, saved, ranks, sharding
):
    earlier = long_runs[saved]
    names = sorted((path.name for path in (earlier / "checkpoints").iterdir()), key=lambda name: int(name[4:]))
    middle = names[1]
    shutil.copytree(earlier, tmp_path / "tiny" / "decoder")
    for name in names[2:]:
        shutil.rmtree(tmp_path / "tiny" / "decoder" / "checkpoints" / name)
    run = train(prepared_study.recipe, tmp_path, ranks, *RAMP, "--set", f"runtime.sharding={sharding}")
    require_same(run, earlier, first_step=int(middle[4:]))


@pytest.mark.slow
def test_a_rank_of_four_keeps_less_than_a_third_of_the_optimiser(prepared_study, tmp_path):
    def weighed(ranks):
        words = ["--set", "runtime.sharding=full"]
        run = train(prepared_study.recipe, tmp_path / str(ranks), ranks, *words, program=BYTES_PROGRAM)
        return [json.loads((run / f"bytes{rank}.json").read_text()) for rank in range(ranks)]

    alone, parts = weighed(1)[0], weighed(4)
    assert alone <= sum(parts) < 1.1 * alone
    assert max(parts) <= 0.3 * alone
