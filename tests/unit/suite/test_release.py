"""A study's release: what it contains, that repeating it changes nothing, and that every planted fault is found."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from planted_faults import PLANTED, WEIGHTS, flip_a_bit
from released_study import STATEMENT
from safetensors.torch import load_file

from seqpair.data.order.export import export_order
from seqpair.data.order.spans import Span
from seqpair.errors import ExportError, RunLockedError
from seqpair.evaluate.results import TaskResult
from seqpair.hub.revision import read_revision
from seqpair.recipe.diff import diff_plans, plan_digest
from seqpair.report.member import MemberOutcome, MemberRun
from seqpair.suite import verify_release as verify_module
from seqpair.suite.places import find_study
from seqpair.suite.release import release_study
from seqpair.suite.release_card import Statement, results_section
from seqpair.suite.release_probe import measure_probe
from seqpair.suite.verify_release import verify_release

SCRATCH = ["step2", "step4", "main"]
CROSSED = ["cross3", "main"]
REVISIONS = {
    "encoder": SCRATCH,
    "decoder": SCRATCH,
    "encoder-from-decoder": CROSSED,
    "decoder-from-encoder": CROSSED,
}
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def contents_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def faults_of(folder: Path, *members: str) -> list[str]:
    faults = verify_release(folder, members).faults
    return [" ".join((one.member, one.part, one.subject, one.fault)) for one in faults]


@pytest.fixture
def copy(released, tmp_path):
    return Path(shutil.copytree(released, tmp_path / "release"))


def test_every_kept_checkpoint_becomes_a_revision_and_the_last_one_is_main(released, four_members):
    found = {member: [path.name for path in (released / member).iterdir()] for member in REVISIONS}
    assert {member: sorted(names) for member, names in found.items()} == {
        member: sorted(names) for member, names in REVISIONS.items()
    }
    for member, names in REVISIONS.items():
        last = max(four_members.place.plan(member).phases[-1].checkpoint_steps)
        assert read_revision(released / member / "main").phase_step == last
        assert len(names) == len(list((four_members.runs / member / "checkpoints").iterdir()))


def test_a_record_says_where_a_revision_comes_from_and_what_its_weights_do(released):
    main = read_revision(released / "encoder-from-decoder" / "main")
    first = read_revision(released / "encoder-from-decoder" / "cross3")
    decoder = read_revision(released / "decoder" / "main")
    assert (main.parent.member, main.parent.revision) == ("encoder-from-decoder", "cross3")
    assert (first.parent.member, first.parent.revision, first.parent.tensors) == ("decoder", "main", decoder.tensors)
    assert read_revision(released / "decoder" / "step2").parent is None
    assert len(main.probe.sequences) == 64
    assert main.probe.sequences == decoder.probe.sequences
    assert decoder.probe.predicted == sum(len(one.ids) for one in main.probe.sequences)
    assert main.probe.predicted == sum(len(one.masked) for one in main.probe.sequences)
    a, b = (load_file(released / "decoder" / name / WEIGHTS) for name in ("step4", "main"))
    assert decoder.distance == pytest.approx(sum(float((a[n] - b[n]).square().sum()) for n in a) ** 0.5, rel=1e-5)


def test_a_released_plan_names_no_folder_of_this_machine_and_keeps_its_digest(released, four_members):
    text = "".join(path.read_text(encoding="utf-8") for path in released.rglob("*") if path.suffix in (".json", ".md"))
    assert str(four_members.recipe.parent) not in text
    record = read_revision(released / "encoder" / "main")
    plan = four_members.place.plan("encoder")
    assert plan_digest(record.plan) == record.plan_digest == plan_digest(plan)


def test_the_loss_of_the_probe_is_the_loss_that_transformers_gives(released):
    transformers = pytest.importorskip("transformers")
    record = read_revision(released / "encoder" / "main")
    folder = released / "encoder" / "main"
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    nats = count = 0
    for one in record.probe.sequences[:20]:
        ids = [tokenizer.cls_token_id, *one.ids, tokenizer.sep_token_id]
        for place in one.masked:
            ids[place + 1] = tokenizer.mask_token_id
        with torch.no_grad():
            logs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        nats -= sum(float(logs[place + 1, one.ids[place]]) for place in one.masked)
        count += len(one.masked)
    ours, _ = measure_probe(folder, record.probe.sequences[:20])
    assert ours.predicted == count
    assert ours.loss == pytest.approx(nats / count, abs=1e-5)


def test_the_order_has_one_exact_file_between_neighbours_that_twins_share(released, four_members, tmp_path):
    names = sorted(path.name for path in (released / "order").glob("*.parquet"))
    stretches = ["step0-to-step2", "step2-to-step4", "step4-to-step5", "cross0-to-cross3", "cross3-to-cross4"]
    assert names == sorted(f"{name}.parquet" for name in stretches)
    plan, stores = four_members.place.plan("encoder"), four_members.place.open_data().train
    whole = export_order(plan, [Span(p, 0, p.steps) for p in plan.phases], stores, tmp_path / "whole.parquet")
    parts = [pq.read_table(released / "order" / f"{name}.parquet").to_pylist() for name in stretches[:3]]
    assert [row for part in parts for row in part] == pq.read_table(whole.path).to_pylist()


def test_a_second_call_writes_nothing(four_members, released):
    before = {path: path.stat().st_mtime_ns for path in released.rglob("*")}
    outcome = release_study(four_members.place, released, statement=STATEMENT)
    assert (outcome.exported, outcome.kept) == ([], sum(map(len, REVISIONS.values())))
    assert {path: path.stat().st_mtime_ns for path in released.rglob("*")} == before


@pytest.mark.slow
def test_what_is_missing_or_damaged_is_made_again_and_nothing_else(four_members, released, copy):
    before = {path: path.stat().st_mtime_ns for path in (copy / "decoder").rglob("*")}
    shutil.rmtree(copy / "encoder" / "step2")
    (copy / "encoder" / "main" / WEIGHTS).write_bytes(b"damaged")
    (copy / "order" / "step0-to-step2.parquet").unlink()
    (copy / "release.json").unlink()
    with pytest.raises(ExportError, match="not empty, and no release"):
        release_study(four_members.place, copy, statement=STATEMENT)
    shutil.copy(released / "release.json", copy)
    (copy / "encoder" / ".partial-main").mkdir()
    began = time.process_time()
    outcome = release_study(four_members.place, copy, statement=STATEMENT)
    assert outcome.exported == ["encoder/step2", "encoder/main"]
    assert time.process_time() - began < 3 * len(outcome.exported)
    assert contents_of(copy) == contents_of(released)
    assert {path: path.stat().st_mtime_ns for path in (copy / "decoder").rglob("*")} == before


@pytest.mark.slow
def test_after_more_training_main_moves_on_and_the_release_is_that_of_the_whole_run(four_members, released, tmp_path):
    runs = Path(shutil.copytree(four_members.runs, tmp_path / "runs" / "tiny"))
    shutil.move(runs / "decoder" / "checkpoints" / "step5", tmp_path / "step5")
    out = tmp_path / "release"
    release_study(find_study(runs), out, ["decoder", "encoder-from-decoder"], statement=STATEMENT)
    assert read_revision(out / "decoder" / "main").checkpoint == "step4"
    shutil.move(tmp_path / "step5", runs / "decoder" / "checkpoints" / "step5")
    outcome = release_study(find_study(runs), out, statement=STATEMENT)
    assert {"decoder/step4", "decoder/main"} < set(outcome.exported)
    assert not [one for one in outcome.exported if one.startswith("encoder-from-decoder")]
    assert contents_of(out) == contents_of(released)


def test_a_release_of_another_owner_is_not_written_over(four_members, released):
    with pytest.raises(ExportError, match="is another release") as error:
        release_study(four_members.place, released, statement=Statement(owner="others"))
    assert "owner lab" in str(error.value)


def test_two_processes_do_not_write_one_release(four_members, copy):
    import fcntl

    descriptor = os.open(copy, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(RunLockedError):
        release_study(four_members.place, copy, statement=STATEMENT)
    os.close(descriptor)


@pytest.mark.slow
def test_fewer_members_and_fewer_checkpoints_can_be_released_and_in_bf16(four_members, tmp_path):
    plan = four_members.place.plan("decoder-from-encoder")
    out = tmp_path / "some"
    release_study(four_members.place, out, ["decoder-from-encoder"], every_tokens=1_000_000, dtype="bf16")
    assert [path.name for path in (out / "decoder-from-encoder").iterdir()] == ["main"]
    record = read_revision(out / "decoder-from-encoder" / "main")
    assert record.parent is None  # the encoder is not released
    assert record.checkpoint == f"cross{plan.phases[-1].steps}"
    weights = load_file(out / "decoder-from-encoder" / "main" / WEIGHTS)
    assert {values.dtype for values in weights.values()} == {torch.bfloat16}
    done = verify_release(out, study=four_members.place)
    assert done.faults == []
    assert {check.part for check in done.checks} > {"probe", "run"}
    with pytest.raises(ExportError, match="dtype bf16"):
        release_study(four_members.place, out, ["decoder-from-encoder"], every_tokens=1_000_000)
    card = (out / "decoder-from-encoder" / "main" / "README.md").read_text(encoding="utf-8")
    assert "license" not in card.split("---")[1]
    assert "have not stated a licence" in card


def test_the_card_states_what_the_study_knows(released, four_members):
    plans = four_members.place.plans()
    card = (released / "encoder-from-decoder" / "main" / "README.md").read_text(encoding="utf-8")
    front = dict(line.split(": ", 1) for line in card.split("---")[1].strip().splitlines())
    assert front["license"] == "mit"
    assert front["language"] == "[en]"
    assert front["pipeline_tag"] == "feature-extraction"
    assert front["base_model"] == "lab/tiny-decoder"
    assert front["datasets"] == "[lab/tiny-order]"
    for item in diff_plans(plans["encoder-from-decoder"], plans["decoder-from-encoder"]):
        assert f"| `{item.path}` |" in card
    for name in CROSSED:
        assert f"| `{name}` |" in card
    assert "base_model" not in (released / "decoder" / "main" / "README.md").read_text(encoding="utf-8")
    early = (released / "decoder" / "step2" / "README.md").read_text(encoding="utf-8")
    assert '"lab/tiny-decoder", revision="step2"' in early
    assert "pipeline_tag: text-generation" in early


def test_the_card_has_results_of_its_own_checkpoint_with_intervals(released, four_members):
    fields = dict(version=1, study="tiny", member="decoder", unit="", higher_is_better=True, chance=0.5, n=80)
    fields |= dict(value=0.625, interval=(0.51, 0.73), interval_method="t", settings={}, model_digest="d", items="i")
    result = TaskResult(task="blimp", title="Minimal pairs", metric="accuracy", **fields)
    outcome = MemberOutcome(result, (), np.zeros(0), np.zeros(0))
    record = read_revision(released / "decoder" / "main")
    run = MemberRun("decoder", four_members.runs / "decoder", outcomes={"blimp": outcome})
    run.export = {"checkpoint": record.checkpoint}
    text = "\n".join(results_section(run, record))
    assert "| Minimal pairs | accuracy | 0.625 | 0.51 to 0.73 | 0.5 | 80 |" in text
    run.export = {"checkpoint": "step2"}  # measured on other weights than those of `main`
    assert results_section(run, record) == []


def test_the_code_of_the_order_card_runs(released, capsys):
    (code,) = CODE.findall((released / "order" / "README.md").read_text(encoding="utf-8"))
    exec(compile(code.replace("PATH", str(released / "order")), "card", "exec"), {})
    assert "'document'" in capsys.readouterr().out


# --- what verify finds ---


def test_an_unharmed_release_has_no_fault_at_any_level(released, four_members):
    done = verify_release(released, study=four_members.place)
    assert done.faults == []
    runs = [check for check in done.checks if check.part == "run"]
    assert len(runs) == sum(map(len, REVISIONS.values()))
    assert all(check.found.startswith("bit for bit") for check in runs)


BY_THE_PROBE = {name for name, (_, words) in PLANTED.items() if " probe " in words[0]}
QUICK_PROBE = "right hashes of wrong weights"


@pytest.mark.parametrize(
    "planted", [pytest.param(one, marks=[pytest.mark.slow] * (one in BY_THE_PROBE - {QUICK_PROBE})) for one in PLANTED]
)
def test_a_planted_fault_is_found_with_its_file_and_revision(copy, planted, monkeypatch):
    plant, words = PLANTED[planted]
    plant(copy)
    if planted not in BY_THE_PROBE:  # found by hashes, so that nothing needs to be computed
        monkeypatch.setattr(verify_module, "check_weights", lambda *_: None)
    faults = faults_of(copy, "encoder")
    assert any(all(word in fault for word in words) for fault in faults), faults


def test_the_shell_names_the_fault_and_takes_every_place(seqpair, released, copy, four_members):
    code, out, _ = seqpair("verify", released, "--member", "encoder", "--study", four_members.recipe, "--json")
    assert code == 0
    assert {"hashes", "probe", "run"} <= {check["part"] for check in json.loads(out)["checks"]}
    flip_a_bit(copy)
    code, _, messages = seqpair("verify", copy, "--member", "encoder")
    assert code == 3
    assert "encoder hashes step4: model.safetensors" in messages
    for place in (released / "encoder" / "step2", four_members.runs / "encoder" / "checkpoints" / "step2"):
        assert seqpair("verify", place)[0] == 0
    assert seqpair("verify", copy / "encoder" / "step4")[0] == 3


# --- slow: a kill at any moment ---

RELEASE_IT = """\
import sys
from pathlib import Path
from released_study import STATEMENT
from seqpair.suite.places import find_study
from seqpair.report.member import MemberOutcome, MemberRun
from seqpair.suite import verify_release as verify_module
from seqpair.suite.places import find_study
from seqpair.suite.release import release_study

release_study(find_study(sys.argv[1]), Path(sys.argv[2]), statement=STATEMENT)
"""


@pytest.mark.slow
def test_a_release_that_is_killed_and_repeated_is_the_undisturbed_one(four_members, released, tmp_path):
    """Ten processes are killed at random moments of one release; each goes on from what the one before left."""
    out = tmp_path / "release"
    tests = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join([str(tests), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", RELEASE_IT, str(four_members.recipe), str(out)]

    def start() -> subprocess.Popen:
        return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths}, stderr=subprocess.DEVNULL)

    moments = random.Random(5)
    killed = 0
    while killed < 10:
        process = start()
        while not any(out.rglob("*.safetensors")) and process.poll() is None:
            time.sleep(0.02)  # importing takes most of the time, and there is nothing to interrupt
        time.sleep(moments.uniform(0.0, 1.0 if killed < 8 else 4.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed += 1
        if (out / "release.json").is_file() and len(contents_of(out)) == len(contents_of(released)):
            shutil.rmtree(out)  # it has come to its end: begin again
    assert start().wait() == 0
    assert contents_of(out) == contents_of(released)
    assert faults_of(out) == []
