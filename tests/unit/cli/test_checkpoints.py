from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkpointed_run import plan_for, small_tokenizer, write_run_of

from seqpair.checkpoint.catalog import list_checkpoints, missing_checkpoints
from seqpair.checkpoint.lock import lock_run
from seqpair.cli.checkpoints import format_age, parse_rule
from seqpair.data.order.batches import read_batch
from seqpair.data.order.ledger import Ledger, LedgerRecord
from seqpair.data.order.order import PhaseOrder
from seqpair.data.prepared import open_recipe_data
from seqpair.data.store.counts import plan_member
from seqpair.errors import RecipeError
from seqpair.recipe.load import load_recipe
from seqpair.suite.places import find_study

STEPS = 440
TOKENS_A_STEP = 100


@pytest.fixture(scope="module")
def long_run_template(tmp_path_factory) -> Path:
    """A run with a checkpoint after every second of 440 steps."""
    folder = tmp_path_factory.mktemp("long") / "study" / "decoder"
    tokenizer = small_tokenizer()
    plan = plan_for("clm", tokenizer.vocab_size, layers=1)
    phase = plan.phases[0].model_copy(update={"steps": STEPS, "positions": 4 * STEPS, "checkpoint_steps": (STEPS,)})
    plan = plan.model_copy(update={"phases": (phase,)})
    last = write_run_of(folder, plan, tokenizer)
    (folder / "plan.json").write_text(plan.model_dump_json())
    manifest = json.loads((last / "manifest.json").read_text())
    for step in range(2, STEPS + 1, 2):
        path = last.with_name(f"step{step}")
        if step != STEPS:
            shutil.copytree(last, path)
        changed = {"name": path.name, "phase_step": step, "total_steps": step, "content_tokens": step * TOKENS_A_STEP}
        (path / "manifest.json").write_text(json.dumps({**manifest, **changed}))
    return folder


@pytest.fixture
def long_run(long_run_template, tmp_path) -> Path:
    """A copy of the long run that a test may change."""
    return Path(shutil.copytree(long_run_template, tmp_path / "study" / "decoder"))


def test_verify_exits_with_2_and_names_what_is_damaged_and_what_is_missing(seqpair, long_run):
    code, out, _ = seqpair("checkpoints", long_run, "--verify")
    assert code == 0, out
    path = long_run / "checkpoints" / "step100" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    code, _, err = seqpair("checkpoints", long_run, "--verify")
    assert code == 2
    assert "1 checkpoints are damaged or missing" in err
    assert "decoder step100 (model.safetensors: SHA-256" in err


def test_a_missing_planned_checkpoint_is_named_up_to_the_last_step_of_the_ledger(seqpair, long_run):
    for step in (10, STEPS):
        shutil.rmtree(long_run / "checkpoints" / f"step{step}")
    plan = find_study(long_run).plan()
    phase = plan.phases[0].model_copy(update={"checkpoint_steps": (2, 10, STEPS)})
    assert missing_checkpoints(long_run, plan.model_copy(update={"phases": (phase,)})) == ([], ["step10"])
    ledger = Ledger(long_run / "ledger.jsonl")
    for step in range(STEPS):
        ledger.append(LedgerRecord("pretrain", step, 4 * step, 4 * step + 4, 100, "d" * 16))
    ledger.close()
    code, out, err = seqpair("checkpoints", long_run, "--verify")
    assert code == 2
    assert f"missing: step{STEPS}" in out
    assert f"decoder step{STEPS} (missing)" in err


def names(run: Path) -> list[str]:
    return [entry.name for entry in list_checkpoints(run)]


def test_220_checkpoints_fit_on_a_screen(seqpair, long_run_template):
    code, out, _ = seqpair("checkpoints", long_run_template)
    assert code == 0
    lines = out.splitlines()
    assert len(lines) == 2 + 3 + 1 + 3
    assert "220 checkpoints" in lines[0]
    assert "newest step440" in lines[0]
    shown = [line.split()[0] for line in lines[2:]]
    assert shown == ["step2", "step4", "step6", "...", "step436", "step438", "step440"]
    assert "214 more" in lines[5]
    assert "8 to 434" in lines[5]
    assert lines[-1].split()[1:6] == ["pretrain", "440", "of", "440", "44.0k"]
    assert lines[-1].rstrip().endswith("whole")


def test_all_unfolds_and_json_has_every_fact(seqpair, long_run_template):
    assert len(seqpair("checkpoints", long_run_template, "--all")[1].splitlines()) == 2 + 220
    (listing,) = json.loads(seqpair("checkpoints", long_run_template, "--json")[1])
    rows = listing["checkpoints"]
    assert [row["name"] for row in rows] == [f"step{step}" for step in range(2, STEPS + 1, 2)]
    assert [row["content_tokens"] for row in rows] == [step * TOKENS_A_STEP for step in range(2, STEPS + 1, 2)]
    files = [path for path in Path(rows[0]["path"]).iterdir() if path.name != "manifest.json"]
    assert rows[0]["bytes"] == sum(path.stat().st_size for path in files)
    assert all(row["whole"] and row["age_seconds"] < 3600 for row in rows)


def test_a_damaged_one_is_never_folded_away(seqpair, long_run):
    os.truncate(long_run / "checkpoints" / "step200" / "model.safetensors", 10)
    (long_run / "checkpoints" / "step300" / "manifest.json").unlink()
    code, out, _ = seqpair("checkpoints", long_run)
    assert code == 0
    (line,) = [line for line in out.splitlines() if line.startswith("step200")]
    assert "model.safetensors: 10 bytes instead of" in line
    assert "step300 is not a checkpoint" in out
    assert "96 more" in out, "those before step200"
    assert "116 more" in out, "those after it, but for step300, and the last three"


def test_a_flipped_bit_is_seen_with_verify(seqpair, long_run):
    path = long_run / "checkpoints" / "step200" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    for options, whole in (((), True), (("--verify",), False)):
        (listing,) = json.loads(seqpair("checkpoints", long_run, "--json", *options)[1])
        (row,) = [row for row in listing["checkpoints"] if row["name"] == "step200"]
        assert row["whole"] is whole
        assert ("SHA-256" in row["fault"]) is not whole


def test_thin_says_what_would_go_and_removes_only_when_told(seqpair, long_run):
    before = names(long_run)
    code, out, _ = seqpair("checkpoints", long_run, "--thin", "last=3,every=10k")
    assert code == 0
    assert "would remove 213 of 220 checkpoints" in out
    assert "kept: step100, step200, step300, step400, step436, step438, step440" in out
    assert "repeat with --yes" in out
    assert names(long_run) == before
    (answer,) = json.loads(seqpair("checkpoints", long_run, "--thin", "last=3,every=10k", "--json")[1])
    assert not answer["done"]
    code, out, _ = seqpair("checkpoints", long_run, "--thin", "last=3,every=10k", "--yes", "--json")
    (done,) = json.loads(out)
    assert done == {**answer, "done": True}
    assert names(long_run) == answer["kept"] == [f"step{n}" for n in (100, 200, 300, 400, 436, 438, 440)]
    assert sorted(os.listdir(long_run / "checkpoints")) == sorted(answer["kept"])
    code, out, _ = seqpair("checkpoints", long_run, "--thin", "last=3,every=10k", "--yes")
    assert "removed 0 of 7 checkpoints" in out


def test_a_run_in_use_is_not_thinned(seqpair, long_run):
    before = names(long_run)
    with lock_run(long_run):
        assert seqpair("checkpoints", long_run, "--thin", "last=1")[0] == 0, "looking needs no lock"
        code, _, err = seqpair("checkpoints", long_run, "--thin", "last=1", "--yes")
    assert code == 4
    assert "in use by another process" in err
    assert names(long_run) == before


@pytest.mark.parametrize("rule", ["last", "last=0", "last=x", "last=-1", "newest=3", "last=1,last=2", "last=1,,", "3"])
def test_a_rule_that_cannot_be_read_is_refused(rule):
    with pytest.raises(RecipeError, match=r"(?s)cannot be read.*seen: .*allowed: last=N.*next: "):
        parse_rule(rule)


def test_a_rule_needs_the_newest():
    with pytest.raises(RecipeError, match=r"next: --thin last=1,every=10M"):
        parse_rule("every=10M")
    assert (parse_rule("every=10M, last=2").last, parse_rule("every=10M, last=2").every_tokens) == (2, 10_000_000)


def test_a_study_folder_lists_its_members_and_a_folder_without_runs_is_refused(seqpair, long_run, tmp_path):
    shutil.copytree(long_run, long_run.with_name("encoder"))
    _, out, _ = seqpair("checkpoints", long_run.parent)
    assert out.count("220 checkpoints") == 2
    assert "encoder" not in seqpair("checkpoints", long_run.parent, "--member", "decoder")[1]
    code, _, err = seqpair("checkpoints", long_run.parent, "--member", "encodr")
    assert code == 2
    assert "did you mean 'encoder'?" in err
    (tmp_path / "empty").mkdir()
    code, _, err = seqpair("checkpoints", tmp_path / "empty")
    assert code == 2
    assert "there is no run in this folder" in err
    code, _, err = seqpair("checkpoints", "no-such-recipe")
    assert "there is no study 'no-such-recipe'" in err


def test_a_recipe_whose_run_has_not_begun_has_no_checkpoints(seqpair, prepared_study):
    code, out, _ = seqpair("checkpoints", prepared_study.recipe)
    assert code == 0
    assert out.splitlines() == [
        f"{member} ({prepared_study.folder}/runs/tiny/{member}): 0 checkpoints" for member in ("encoder", "decoder")
    ]
    (answer, _) = json.loads(seqpair("checkpoints", prepared_study.recipe, "--thin", "last=1", "--yes", "--json")[1])
    assert answer["removed"] == answer["kept"] == []
    assert not (prepared_study.folder / "runs").exists(), "looking makes no folder"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--between", "step1", "step2", "--thin", "last=1"), "--between and --thin were given together"),
        (("--yes",), "--yes was given without --thin"),
        (("--between", "step2", "step1"), "comes before the first"),
        (("--between", "step1", "ext9"), "no one checkpoint of this name"),
    ],
)
def test_bad_questions_are_refused(seqpair, prepared_study, words, message):
    code, out, err = seqpair("checkpoints", prepared_study.recipe, *words)
    assert (code, out) == (2, "")
    assert message in err


def documents_of(recipe: Path, first: int, second: int) -> tuple[list[tuple[str, str]], dict[str, tuple[int, int]]]:
    """Return documents in reading order, and sequences and tokens by source, from the batches themselves."""
    loaded = load_recipe(str(recipe))
    prepared, plan = open_recipe_data(loaded), plan_member(loaded, "decoder")
    order = PhaseOrder(plan.seed, plan.phases[0], prepared.train)
    met: dict[tuple[str, str], None] = {}
    read = {source: (0, 0) for source in order.sources}
    for step in range(first, second):
        batch = read_batch(order, step)
        for index, row, begin, end in zip(batch.source, batch.rows, batch.offsets, batch.offsets[1:], strict=False):
            source = order.sources[index]
            met.setdefault((source, order.stores[index].document_id(int(row))))
            sequences, tokens = read[source]
            read[source] = (sequences + 1, tokens + int(end - begin))
    return list(met), read


def test_what_lies_between_two_checkpoints_is_what_the_batches_between_them_hold(seqpair, prepared_study):
    met, read = documents_of(prepared_study.recipe, 3, 9)
    options = ("--member", "decoder", "--between", "step3", "step9")
    code, out, _ = seqpair("checkpoints", prepared_study.recipe, *options, "--all", "--json")
    assert code == 0
    shown = json.loads(out)
    assert [(item["source"], item["document"]) for item in shown["documents"]] == met
    assert {item["source"]: (item["sequences"], item["tokens"]) for item in shown["sources"]} == read
    for item in shown["sources"]:
        assert item["documents"] == sum(source == item["source"] for source, _ in met)
    (span,) = shown["spans"]
    assert (span["first_step"], span["stop_step"]) == (3, 9)
    few = json.loads(seqpair("checkpoints", prepared_study.recipe, *options, "--limit", "2", "--json")[1])
    assert few["documents"] == shown["documents"][:2]
    assert few["sources"] == shown["sources"]


def test_between_as_text_names_a_few_and_counts_all(seqpair, prepared_study):
    met, read = documents_of(prepared_study.recipe, 0, 2)
    code, out, _ = seqpair("checkpoints", prepared_study.recipe, "--between", "step0", "step2", "--limit", "4")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "tiny/encoder: documents read after step0 up to step2"
    assert [tuple(line.split()[3:]) for line in lines[2:6]] == met[:4]
    assert f"and {len(met) - 4} more" in lines[6]
    assert lines[7] == "phase pretrain: steps 0..1, positions 0..31"
    for source, (sequences, tokens) in read.items():
        assert any(line.startswith(f"{source}: ") and f" {sequences} sequences, {tokens:,} " in line for line in lines)
    everything = seqpair("checkpoints", prepared_study.recipe, "--between", "step0", "step2", "--all")[1]
    assert [tuple(line.split()[3:]) for line in everything.splitlines()[2 : 2 + len(met)]] == met
    nothing = seqpair("checkpoints", prepared_study.recipe, "--between", "step1", "step1")[1]
    assert "in all: 0 documents, 0 content tokens" in nothing


def test_a_runs_own_plan_answers_and_not_a_recipe_that_changed_since(seqpair, prepared_study, tmp_path):
    plan = plan_member(load_recipe(str(prepared_study.recipe)), "decoder")
    run = tmp_path / "tiny" / "decoder"
    (run / "checkpoints").mkdir(parents=True)
    (run / "plan.json").write_text(plan.model_dump_json())
    words = ("--between", "step1", "step4", "--json")
    of_run = json.loads(seqpair("checkpoints", run, *words)[1])
    assert of_run == json.loads(seqpair("checkpoints", prepared_study.recipe, "--member", "decoder", *words)[1])
    changed = ("--set", f"runs={tmp_path}", "--set", "seed=8")
    kept = json.loads(seqpair("checkpoints", prepared_study.recipe, "--member", "decoder", *changed, *words)[1])
    assert kept == of_run
    (run / "plan.json").write_text("{}")
    code, _, err = seqpair("checkpoints", run, *words)
    assert code == 2
    assert "plan of the run" in err


def test_soups_are_listed_apart(seqpair, long_run):
    assert seqpair("soup", long_run, "--last", "3", "--out", "last3")[0] == 0
    _, out, _ = seqpair("checkpoints", long_run)
    assert "220 checkpoints" in out
    assert "soup last3: average of 3, step436, step438, step440; " in out.splitlines()[-1]
    (listing,) = json.loads(seqpair("checkpoints", long_run, "--json")[1])
    assert [(row["name"], row["parts"]) for row in listing["soups"]] == [("last3", ["step436", "step438", "step440"])]


def test_ages_are_readable():
    assert [format_age(value) for value in (20, 7500, 86_400 * 2, 86_400 * 12.9)] == [
        "20 s",
        "2 h 05 min",
        "2 days",
        "12 days",
    ]


def test_a_folder_named_like_a_preset_that_holds_no_run_leaves_the_preset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    run = find_study("demo", [f"runs={tmp_path}"]).run("decoder")
    assert run.path == tmp_path / "demo" / "decoder"
    assert find_study("demo").recipe is not None


def test_checkpoints_does_not_import_torch(long_run_template):
    program = (
        "import sys; from seqpair.cli import app\n"
        "sys.argv = ['seqpair', 'checkpoints', sys.argv[1]]\n"
        "try: app.main()\nexcept SystemExit as ended: assert not ended.code\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(long_run_template)], check=True, stdout=subprocess.DEVNULL)
