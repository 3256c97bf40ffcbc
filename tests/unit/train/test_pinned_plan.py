"""The plan that a run keeps to, and a run that is continued with a longer one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seqpair.data.prepare.preparation import prepare
from seqpair.data.store.counts import plan_member
from seqpair.distributed.world import start_world
from seqpair.errors import CheckpointError
from seqpair.paths import PLAN_FILE, run_folder
from seqpair.recipe.load import load_recipe
from seqpair.recipe.resolve import resolve_plan
from seqpair.suite.places import find_study
from seqpair.suite.training import is_trained
from seqpair.suite.verify import verify_study
from seqpair.train.loop import train_member
from seqpair.train.pinned_plan import pin_plan, require_pinnable

SMALL = (
    "phases.pretrain.budget_tokens=8k",
    "phases.pretrain.lr={warmup_tokens: 1k, decay_tokens: 3k}",
    "checkpoints.every_tokens=2k",
    "held_out.every_tokens=4k",
)
FLAT = "phases.pretrain.lr={curve: constant, start_frac: null, end_frac: null, warmup_tokens: null, decay_tokens: null}"
COSINE = "phases.pretrain.lr={curve: cosine, warmup_tokens: 2k, decay_tokens: null}"
LONGER = "phases.pretrain.budget_tokens=11k"
DECAY = (
    "phases.decay={name: decay, tag: decay, seq_len: 96, budget_tokens: 3k, batch: {sequences: 16}, "
    "mixture: {notes: {share: 1}}, lr: {curve: one_minus_sqrt, end_frac: 0.02}}"
)


@pytest.fixture
def plan(prepared_study):
    return plan_member(load_recipe(str(prepared_study.recipe)), "encoder")


def test_the_same_plan_is_pinned_again_and_runtime_may_change(plan, tmp_path):
    pin_plan(plan, tmp_path)
    quieter = plan.model_copy(update={"runtime": plan.runtime.model_copy(update={"threads": 2})})
    pin_plan(quieter, tmp_path)
    assert '"threads": 2' in (tmp_path / "plan.json").read_text()


def test_another_plan_is_refused_and_the_first_one_stays(plan, tmp_path):
    pin_plan(plan, tmp_path)
    before = (tmp_path / "plan.json").read_bytes()
    with pytest.raises(CheckpointError, match=r"(?s)another plan.*seed: 7 -> 8.*another `name`"):
        pin_plan(plan.model_copy(update={"seed": 8}), tmp_path)
    assert (tmp_path / "plan.json").read_bytes() == before


def test_a_plan_that_cannot_be_read_is_no_traceback(plan, tmp_path):
    (tmp_path / "plan.json").write_text('{"study": "tiny"}')
    with pytest.raises(CheckpointError, match=r"(?s)cannot be read.*written by this version"):
        pin_plan(plan, tmp_path)


@pytest.fixture
def train(prepared_study, tmp_path):
    """Train the tiny encoder in a folder of runs by the recipe with a few keys set; return its run."""

    def run(runs: str, *assignments: str) -> Path:
        recipe = load_recipe(str(prepared_study.recipe), [f"runs={tmp_path / runs}", *SMALL, *assignments])
        prepared = prepare(recipe.data.sources, recipe.data.tokenizer, Path(recipe.data.stores))
        plan = plan_member(recipe, "encoder")
        with start_world("cpu") as world:
            assert train_member(plan, prepared, world).finished
        assert is_trained(plan)
        return run_folder(plan)

    return run


def newest(run: Path) -> Path:
    return max((run / "checkpoints").glob("*[0-9]"), key=lambda one: one.stat().st_mtime_ns)


def bits(run: Path) -> dict[str, bytes]:
    files = ("model.safetensors", "optimizer.safetensors", "state.json")
    found = {name: (newest(run) / name).read_bytes() for name in files}
    return found | {"name": newest(run).name.encode(), "ledger": (run / "ledger.jsonl").read_bytes()}


@pytest.mark.parametrize(
    ("keys", "longer", "aside"),
    [
        ([FLAT], [LONGER, DECAY], False),
        ([], [LONGER], True),
        ([FLAT, DECAY], [LONGER], True),
    ],
    ids=["budget and decay", "budget of a decayed run", "budget before a decay"],
)
def test_a_continued_run_has_the_bits_of_one_trained_at_once(train, capsys, keys, longer, aside):
    short = train("continued", *keys)
    before, checkpoints = bits(short), sorted(path.name for path in (short / "checkpoints").iterdir())
    assert train("continued", *keys, *longer) == short
    assert bits(short) == bits(train("at-once", *keys, *longer))
    if not aside:
        assert bits(short)["ledger"].startswith(before["ledger"])
    kept = sorted(path.name.partition(".aside-")[0] for path in (short / "checkpoints").iterdir())
    assert set(checkpoints) <= set(kept), "nothing is lost"
    assert any(".aside-" in path.name for path in (short / "checkpoints").iterdir()) is aside
    assert "continues with a longer plan" in capsys.readouterr().err
    rows = [json.loads(line) for line in (short / "metrics.jsonl").read_text().splitlines()]
    steps = [row["total_step"] for row in rows if row["kind"] == "train"]
    assert steps == list(range(1, len(steps) + 1))
    damage = [check for check in verify_study(find_study(str(short))).checks if check.fault]
    assert not damage, damage


def test_a_run_whose_curve_depends_on_its_length_is_refused_and_left_as_it_is(train, prepared_study, tmp_path):
    run = train("runs", COSINE)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    recipe = load_recipe(str(prepared_study.recipe), [f"runs={tmp_path / 'runs'}", *SMALL, COSINE, LONGER])
    with pytest.raises(CheckpointError, match=r"(?s)agrees with none.*lr.*from: encoder@stepN"):
        require_pinnable(plan_member(recipe, "encoder"), run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_run_is_not_continued_with_a_shorter_plan(train, prepared_study, tmp_path):
    run = train("runs", FLAT)
    keys = [f"runs={tmp_path / 'runs'}", *SMALL, FLAT, "phases.pretrain.budget_tokens=4k"]
    recipe = load_recipe(str(prepared_study.recipe), keys)
    with pytest.raises(CheckpointError, match="larger budgets"):
        require_pinnable(plan_member(recipe, "encoder"), run)


def test_a_member_whose_start_was_continued_is_trained_again_under_another_name(tmp_path):
    recipe = str(Path(__file__).parents[1] / "recipe" / "four_phases.yaml")
    before, after = (
        resolve_plan(load_recipe(recipe, keys), "encoder-from-decoder")
        for keys in ([], ["phases.decay.budget_tokens=2M"])
    )
    (tmp_path / PLAN_FILE).write_text(before.model_dump_json())
    words = r"(?s)start.plan_digest.*give the member encoder-from-decoder another name.*this run stays"
    with pytest.raises(CheckpointError, match=words):
        require_pinnable(after, tmp_path)
