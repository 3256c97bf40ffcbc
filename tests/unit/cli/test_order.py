"""`seqpair order --text`: the documents that hold a string, and when they are read."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from seqpair.data.order.batches import read_batch
from seqpair.data.order.ledger import LedgerRecord
from seqpair.data.order.order import PhaseOrder
from seqpair.data.prepared import open_recipe_data
from seqpair.data.store.counts import plan_member
from seqpair.data.store.text_search import document_text
from seqpair.recipe.load import load_recipe


@pytest.fixture(scope="module")
def two_phases(prepared_study) -> Path:
    """The tiny study with a second phase that reads one of the sources at another length."""
    path = prepared_study.folder / "two.yaml"
    text = prepared_study.recipe.read_text(encoding="utf-8")
    second = """\
  - name: decay
    tag: decay
    seq_len: 48
    budget_tokens: 6k
    mixture: {notes: {epochs: 1}}
    mask_frac: 0.15
    batch: {sequences: 16}
    lr: {curve: one_minus_sqrt, start_frac: 0.5, end_frac: 0.02}
"""
    path.write_text(text.replace("checkpoints:", second + "checkpoints:", 1), encoding="utf-8")
    return path


def test_a_steps_documents_are_those_of_its_batch(seqpair, prepared_study):
    code, out, _ = seqpair("order", str(prepared_study.recipe), "--step", "3", "--json")
    assert code == 0
    shown = json.loads(out)
    recipe = load_recipe(str(prepared_study.recipe))
    prepared, plan = open_recipe_data(recipe), plan_member(recipe, "decoder")
    order = PhaseOrder(plan.seed, plan.phases[0], prepared.train)
    batch = read_batch(order, 3)
    assert shown["batch_digest"] == LedgerRecord.of(batch).digest
    assert shown["content_tokens"] == batch.content.size
    assert [entry["position"] for entry in shown["sequences"]] == batch.positions.tolist()
    for i, entry in enumerate(shown["sequences"]):
        store = prepared.train[entry["source"]]
        document = store.document_tokens(store.row_of(entry["document"]))
        cut = [k * document.size // entry["pieces"] for k in (entry["piece"], entry["piece"] + 1)]
        assert np.array_equal(document[cut[0] : cut[1]], batch.content[batch.offsets[i] : batch.offsets[i + 1]])
        assert entry["tokens"] == cut[1] - cut[0]


def test_a_documents_steps_are_those_that_hold_it(seqpair, prepared_study):
    recipe = str(prepared_study.recipe)
    wanted = json.loads(seqpair("order", recipe, "--step", "0", "--json")[1])
    steps = [json.loads(seqpair("order", recipe, "--step", str(k), "--json")[1]) for k in range(wanted["steps"])]
    for document, source in {(entry["document"], entry["source"]) for entry in wanted["sequences"][:3]}:
        expected = [
            {"phase": "pretrain", "step": k, **{key: entry[key] for key in ("position", "piece", "epoch")}}
            for k, shown in enumerate(steps)
            for entry in shown["sequences"]
            if (entry["document"], entry["source"]) == (document, source)
        ]
        code, out, _ = seqpair("order", recipe, "--document", document, "--source", source, "--json")
        assert code == 0
        (trace,) = json.loads(out)["documents"]
        assert trace["readings"] == expected
        plan = plan_member(load_recipe(recipe), "encoder")
        assert {seen["checkpoint"]: seen["sequences_read"] for seen in trace["seen_by"]} == {
            f"step{done}": sum(reading["step"] < done for reading in expected)
            for done in plan.phases[0].checkpoint_steps
            if any(reading["step"] < done for reading in expected)
        }


def test_later_phases_checkpoints_have_seen_what_earlier_phases_read(seqpair, two_phases):
    first = json.loads(seqpair("order", str(two_phases), "--step", "0", "--phase", "pretrain", "--json")[1])
    tale = next(entry["document"] for entry in first["sequences"] if entry["source"] == "tales")
    (trace,) = json.loads(seqpair("order", str(two_phases), "--document", tale, "--json")[1])["documents"]
    assert set(trace["pieces"]) == {"pretrain"}
    read_in_pretrain = len(trace["readings"])
    in_decay = [seen for seen in trace["seen_by"] if seen["phase"] == "decay"]
    assert in_decay
    assert {seen["sequences_read"] for seen in in_decay} == {read_in_pretrain}
    assert all(seen["checkpoint"].startswith("decay") for seen in in_decay)
    only = json.loads(seqpair("order", str(two_phases), "--document", tale, "--phase", "decay", "--json")[1])
    assert only["documents"][0]["seen_by"] == in_decay
    assert only["documents"][0]["readings"] == []


def test_tables_name_documents_steps_and_checkpoints(seqpair, prepared_study):
    recipe = str(prepared_study.recipe)
    code, out, err = seqpair("order", recipe, "--step", "1")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("tiny, phase pretrain, step 1 of 0..")
    shown = re.fullmatch(r"mixture of a round: notes ([\d.]+) %, tales ([\d.]+) %", lines[1])
    assert float(shown[1]) == pytest.approx(60, abs=0.5)
    assert float(shown[1]) + float(shown[2]) == pytest.approx(100, abs=0.02)
    assert lines[2].split() == ["position", "source", "document", "piece", "tokens", "epoch"]
    assert len(lines) == 3 + 16
    document = lines[3].split()[2]
    code, out, _ = seqpair("order", recipe, "--document", document)
    assert code == 0
    assert "first in phase pretrain step" in out
    assert "checkpoints (sequences read before each): step" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "seen: none of --step, --document, --text, --export"),
        (("--step", "0", "--document", "x"), "seen: --step and --document"),
        (("--step", "9999"), "phase 'pretrain' has no such step\n  seen: 9999\n  allowed: 0 to "),
        (("--step", "-1"), "has no such step"),
        (("--step", "0", "--phase", "late"), "the plan has no such phase\n  seen: late\n  allowed: pretrain"),
        (("--document", "no-such"), "no training store has a document of this id\n  seen: 'no-such', in no store"),
        (("--document", "tale05.txt", "--source", "web"), "the recipe has no such source\n  seen: web"),
    ],
)
def test_bad_questions_are_refused(seqpair, prepared_study, words, message):
    code, out, err = seqpair("order", str(prepared_study.recipe), *words)
    assert (code, out) == (2, "")
    assert message in err


def test_a_held_out_document_is_said_to_be_held_out(seqpair, prepared_study):
    store = open_recipe_data(load_recipe(str(prepared_study.recipe))).held_out["tales"]
    code, _, err = seqpair("order", str(prepared_study.recipe), "--document", store.document_id(0))
    assert code == 2
    assert "held out for evaluation in tales: no step reads it" in err


def test_several_phases_need_a_choice(seqpair, two_phases):
    code, _, err = seqpair("order", str(two_phases), "--step", "0")
    assert code == 2
    assert "without its phase" in err
    assert "pretrain, decay" in err


def test_the_order_is_written_as_parquet_and_agrees_with_the_steps(seqpair, two_phases, tmp_path):
    out_file = tmp_path / "order.parquet"
    code, out, _ = seqpair("order", str(two_phases), "--export", str(out_file))
    assert code == 0
    rows = pq.read_table(out_file).to_pylist()
    assert out.startswith(f"{out_file}: {len(rows):,} rows (pretrain, decay), ")
    for phase, step in (("pretrain", 5), ("decay", 0)):
        shown = json.loads(seqpair("order", str(two_phases), "--step", str(step), "--phase", phase, "--json")[1])
        mine = [row for row in rows if (row["phase"], row["step"]) == (phase, step)]
        keys = ("position", "source", "document", "piece", "epoch")
        assert [{key: row[key] for key in keys} for row in mine] == [
            {key: entry[key] for key in keys} for entry in shown["sequences"]
        ]
    code, out, _ = seqpair(
        "order", str(two_phases), "--export", str(tmp_path / "d.parquet"), "--phase", "decay", "--json"
    )
    assert json.loads(out)["rows"] == sum(row["phase"] == "decay" for row in rows)


def test_an_export_never_replaces_a_file(seqpair, prepared_study, tmp_path):
    (tmp_path / "order.parquet").write_text("mine")
    code, _, err = seqpair("order", str(prepared_study.recipe), "--export", str(tmp_path / "order.parquet"))
    assert code == 2
    assert "is there already" in err
    assert (tmp_path / "order.parquet").read_text() == "mine"


def test_order_does_not_import_torch(prepared_study):
    program = (
        "import sys; from seqpair.cli import app\n"
        "sys.argv = ['seqpair', 'order', sys.argv[1], '--step', '0', '--json']\n"
        "try: app.main()\nexcept SystemExit as ended: assert not ended.code\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(prepared_study.recipe)], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def prepared(prepared_study):
    return open_recipe_data(load_recipe(str(prepared_study.recipe)))


def texts_of(prepared, split):
    return {
        (name, store.document_id(row)): document_text(prepared.tokenizer, store, row)
        for name, store in getattr(prepared, split).items()
        for row in range(store.manifest.documents)
    }


def test_the_documents_found_are_those_that_hold_it_and_are_traced(seqpair, prepared_study, prepared):
    train, held_out = texts_of(prepared, "train"), texts_of(prepared, "held_out")
    wanted = "lantern river"
    expected = [key for texts in (train, held_out) for key, text in texts.items() if wanted in text]
    assert 2 < len(expected) < len(train)
    recipe = str(prepared_study.recipe)
    code, out, err = seqpair("order", recipe, "--text", wanted, "--all", "--json")
    assert code == 0
    answer = json.loads(out)
    assert [(item["source"], item["document"]) for item in answer["documents"]] == expected
    assert answer["complete"] is True
    total = sum(len(text.encode()) for texts in (train, held_out) for text in texts.values())
    assert answer["scanned_bytes"] == answer["total_bytes"] == total
    assert "MB/s" in err
    for item in answer["documents"]:
        key = (item["source"], item["document"])
        assert item["before"] + item["match"] + item["after"] in {**train, **held_out}[key]
        if item["split"] == "held_out":
            assert item["readings"] == item["seen_by"] == []
            continue
        alone = seqpair("order", recipe, "--document", key[1], "--source", key[0], "--json")[1]
        (trace,) = json.loads(alone)["documents"]
        length, count = trace["tokens"], trace["pieces"]["pretrain"]
        held = {
            piece
            for piece in range(count)
            for start, stop in item["places"]
            if start < (piece + 1) * length // count and stop > piece * length // count
        }
        assert held
        assert item["readings"] == [reading for reading in trace["readings"] if reading["piece"] in held]
        for seen in item["seen_by"]:
            done = int(seen["checkpoint"].removeprefix("step"))
            assert seen["sequences_read"] == sum(reading["step"] < done for reading in item["readings"])


def test_case_source_and_limit(seqpair, prepared_study):
    ask = ("order", str(prepared_study.recipe), "--text", "LANTERN", "--json")
    assert json.loads(seqpair(*ask)[1])["documents"] == []
    code, out, _ = seqpair(*ask, "-i", "--source", "tales", "--limit", "2")
    assert code == 0
    answer = json.loads(out)
    assert [item["source"] for item in answer["documents"]] == ["tales", "tales"]
    assert answer["complete"] is False
    assert all(item["match"].lower() == "lantern" for item in answer["documents"])


def test_the_text_says_what_was_searched(seqpair, prepared_study):
    recipe = str(prepared_study.recipe)
    _, out, _ = seqpair("order", recipe, "--text", "lantern", "--limit", "8")
    lines = out.splitlines()
    assert "[[lantern]]" in lines[1]
    assert any(line.startswith("  read ") for line in lines)
    assert "stopped at --limit 8" in lines[-1]
    code, out, _ = seqpair("order", recipe, "--text", "no such words")
    assert code == 0
    assert out.startswith("no document holds 'no such words'; ")
    assert out.endswith("in notes, tales searched\n")
    code, _, err = seqpair("order", recipe, "--text", "")
    assert code == 2
    assert "nothing to look for" in err
