"""`seqpair finetune` from rows in files to a model that loads again, and its errors."""

from __future__ import annotations

import json
import random

import pytest
import transformers
from checkpointed_run import real_texts, write_run
from labelled_sets import filler
from typer.testing import CliRunner

from seqpair.cli.app import app
from seqpair.errors import EvaluationError
from seqpair.evaluate.finetune.keep import open_tuned
from seqpair.evaluate.finetune.sets import Example
from seqpair.hub.export import export_checkpoint
from seqpair.models.open import open_model

MOODS = ("--data", "rows.tsv", "--text", "sentence", "--label", "mood")
FAST = (
    "--rate",
    "1e-2",
    "--epochs",
    "8",
    "--choice",
    "batch_rows=8",
    "--choice",
    "dropout=0",
    "--choice",
    "max_tokens=48",
)


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    folders = {}
    for name in ("mlm", "clm"):
        folder = tmp_path_factory.mktemp(f"finetune-{name}")
        export_checkpoint(write_run(folder, name), folder / "export", real_texts()[:2])
        folders[name] = str(folder / "export")
    return folders


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same rows as a TSV, a headerless CSV and a JSON Lines file, and pairs of texts."""
    folder, draw = tmp_path_factory.mktemp("rows"), random.Random(0)
    rows = [(" ".join([("import", "def")[n % 2], *filler(draw, 4)]), ("bad", "good")[n % 2]) for n in range(40)]
    (folder / "rows.tsv").write_text("sentence\tmood\n" + "".join(f"{a}\t{b}\n" for a, b in rows))
    (folder / "bare.csv").write_text("".join(f'"{a}, x",{b}\n' for a, b in rows))
    (folder / "rows.jsonl").write_text("".join(json.dumps({"sentence": a, "mood": b}) + "\n" for a, b in rows[:20]))
    pairs = [{"source": ("one", "two")[n % 2], "target": ("def x", "import y")[n % 2]} for n in range(24)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    chats = [
        [
            {"role": "user", "content": ("one", "two")[n % 2]},
            {"role": "assistant", "content": ("def", "import")[n % 2]},
            {"role": "user", "content": "again"},
            {"role": "assistant", "content": "the stone"},
        ]
        for n in range(12)
    ]
    (folder / "chats.jsonl").write_text("".join(json.dumps({"turns": chat}) + "\n" for chat in chats))
    return folder


def run(*arguments):
    return CliRunner().invoke(app, ["finetune", *map(str, arguments)], catch_exceptions=False)


@pytest.mark.parametrize("name", ["mlm", "clm"])
def test_rows_in_a_file_become_a_model_that_transformers_loads(exports, files, tmp_path, name):
    given = (exports[name], "--data", files / "rows.tsv", "--text", "sentence", "--label", "mood")
    parts = ("--dev", files / "rows.tsv", "--test", files / "rows.tsv", "--out", tmp_path / "job", "--json")
    found = run(*given, *FAST, *parts)
    assert found.exit_code == 0, found.output
    report = json.loads(found.stdout)
    (result,) = report["results"]
    assert result["value"] > 0.9
    assert (result["chance"], result["n"], result["seeds"]) == (0.5, 40, [0])
    assert "All test rows are training rows" in result["note"]
    assert report["kept"]["hub_class"] == "AutoModelForSequenceClassification"
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "job/model")
    assert model.config.id2label == {0: "bad", 1: "good"}
    learned = [line.split("\t") for line in (files / "rows.tsv").read_text().splitlines()[1:5]]
    tuned = open_tuned(tmp_path / "job/model")
    answers = tuned.answer("rows", [Example(text, text, 0) for text, _ in learned])
    with pytest.raises(EvaluationError, match="was tuned on single texts"):
        tuned.answer("rows", [Example("a", "a", 0, pair="b")])
    assert answers == [label for _, label in learned] == ["bad", "good", "bad", "good"]
    lines = "".join(f"{text}\n" for text, _ in learned)
    said = CliRunner().invoke(app, ["classify", str(tmp_path / "job/model"), "-"], input=lines)
    assert said.stdout == "1\tbad\n2\tgood\n3\tbad\n4\tgood\n"
    assert not list((tmp_path / "job/runs").glob("*.safetensors"))
    again = json.loads(run(*given, *FAST, *parts).stdout)
    assert again["kept"]["was_there"]
    assert again["results"][0]["value"] == result["value"]


def test_another_job_does_not_replace_a_kept_model(exports, files, tmp_path):
    given = (exports["mlm"], "--data", files / "rows.tsv", "--text", "sentence", "--label", "mood", "--out", tmp_path)
    assert run(*given, "--rate", "1e-3", "--epochs", "1").exit_code == 0
    with pytest.raises(EvaluationError, match="model of another job"):
        run(*given, "--rate", "2e-3", "--epochs", "1")
    with pytest.raises(EvaluationError, match="other files than those of a job"):
        run(*given[:-1], files, "--rate", "2e-3", "--epochs", "1")


@pytest.mark.parametrize(
    ("file", "columns"),
    [("pairs", ("--text", "source", "--label", "target")), ("chats", ("--choice", "messages=turns"))],
)
def test_a_decoder_learns_to_write_and_is_kept_as_a_causal_model(exports, files, tmp_path, file, columns):
    path = files / f"{file}.jsonl"
    found = run(
        *(
            exports["clm"],
            "--data",
            path,
            "--dev",
            path,
            "--kind",
            "text",
            *columns,
            "--out",
            tmp_path / "job",
            "--json",
        ),
        *("--rate", "2e-2", "--epochs", "20", "--choice", "batch_rows=4", "--choice", "patience_checks=20"),
    )
    assert found.exit_code == 0, found.output
    report = json.loads(found.stdout)
    figures = report["results"][0]["figures"]
    assert figures["exact_match_mean"] > 0.9
    assert figures["chrf_mean"] > 90
    assert report["results"][0]["metric"] == "bleu"
    assert open_model(tmp_path / "job/model").has_head
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "job/model")
    said = CliRunner().invoke(app, ["chat", str(tmp_path / "job/model")], input="one\nagain\n\nnot read\n")
    if file == "pairs":
        assert tokenizer.chat_template is None
        assert "was not tuned to chat" in str(said.exception)
        return
    # The template makes the prompts of tuning, beginning token included, for whoever loads the folder.
    turns = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "def"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == "[CLS]user: one\nassistant: def\nassistant: "
    assert said.stdout == "def\nthe stone\n"
    write = transformers.pipeline("text-generation", model=str(tmp_path / "job/model"))
    answer = write(turns[:1], max_new_tokens=8, do_sample=False)[0]["generated_text"][-1]
    assert (answer["role"], answer["content"].strip()) == ("assistant", "def")


def test_texts_are_not_for_encoders(exports, files, tmp_path):
    given = ("--data", files / "pairs.jsonl", "--kind", "text", "--text", "source", "--label", "target")
    with pytest.raises(EvaluationError, match="only a decoder"):
        run(exports["mlm"], *given, "--out", tmp_path)


def test_described_sets_learn_together_and_one_is_answered_by_another(exports, files, tmp_path):
    (files / "moods.yaml").write_text("train: rows.tsv\ntext: sentence\nlabel: mood\nlabels: [bad, good]\n")
    (files / "bare.yaml").write_text("train: bare.csv\nheader: [text, label]\n")
    found = run(
        *(exports["mlm"], "--task", files / "moods.yaml", "--task", files / "bare.yaml", *FAST),
        *("--transfer", files / "bare.yaml", "--out", tmp_path / "job", "--json"),
    )
    report = json.loads(found.stdout)
    assert [result["task"] for result in report["results"]] == ["moods", "bare", "moods_to_bare"]
    assert min(result["value"] for result in report["results"]) > 0.9
    assert report["kept"]["no_hub_class_because"] == "it has more than one head"


def test_a_dry_run_reads_the_rows_and_writes_nothing(exports, files, tmp_path):
    given = (exports["mlm"], "--data", files / "rows.tsv", "--text", "sentence", "--label", "mood")
    found = run(*given, "--grid", "published", "--seeds", "2", "--out", tmp_path / "job", "--dry-run")
    assert "rows: classes, 36 rows, dev 4, test 0, accuracy, 2 labels" in found.stdout
    assert "training labels: bad" in found.stdout
    assert "48 settings x 2 seeds = 96 runs" in found.stdout
    assert not (tmp_path / "job").exists()


def test_other_rows_go_to_another_folder(exports, files, tmp_path):
    other = tmp_path / "rows.tsv"
    other.write_text((files / "rows.tsv").read_text().replace("bad", "awful"))
    folders = []
    for path in (files / "rows.tsv", other, files / "rows.jsonl"):
        shown = run(exports["mlm"], "--data", path, *MOODS[2:], "--dry-run").stdout
        folders.append(shown.rpartition(", into ")[2].strip())
    assert len(set(folders)) == 3
    assert all("finetuned" in folder and "/rows-" in folder for folder in folders)


def test_cut_rows_are_counted_and_said(exports, files, tmp_path, capfd):
    given = (exports["mlm"], "--data", files / "rows.tsv", "--text", "sentence", "--label", "mood", "--no-keep")
    found = run(*given, "--rate", "1e-3", "--epochs", "1", "--choice", "max_tokens=5", "--out", tmp_path, "--json")
    figures = json.loads(found.stdout)["results"][0]["figures"]
    assert figures["train_truncated_rows"] == 36
    assert "36 of 36 train rows were cut" in found.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "needs rows to learn from"),
        (("--data", "rows.tsv", "--text", "words", "--label", "mood"), "has no column 'words'"),
        (("--data", "nothing.tsv"), "no such file"),
        (("--data", "rows.xlsx"), "cannot be read from such a file"),
        (
            ("--data", "rows.tsv", "--text", "sentence", "--label", "mood", "--choice", "labels=bad,worse"),
            "not one of the set's",
        ),
        ((*MOODS, "--kind", "number"), "not a number"),
        ((*MOODS, "--choice", "dropuot=0"), "no such choice"),
        ((*MOODS, "--choice", "batch_rows=many"), "a whole number"),
        ((*MOODS, "--choice", "dropout=half"), "dropout of a fine-tuning run"),
        (("--task", "snli", "--text", "sentence"), "brings its own description"),
        ((*MOODS, "--kind", "sort"), "does not describe"),
        ((*MOODS, "--epochs", "3"), "give --rate too"),
        ((*MOODS, "--pooling", "max"), "no such pooling"),
        ((*MOODS, "--transfer", "nothing"), "no labelled set"),
        ((*MOODS, "--map", "good=bad"), "--map needs another set"),
        (("--task", "nothing"), "no labelled set of this name"),
    ],
)
def test_bad_input_is_one_clear_error(exports, files, monkeypatch, arguments, message):
    monkeypatch.chdir(files)
    with pytest.raises(EvaluationError, match=message):
        run(exports["mlm"], *arguments, "--dry-run")


def test_a_folder_without_a_tokenizer_is_refused(exports, files, tmp_path):
    from pathlib import Path
    from shutil import copytree

    folder = copytree(exports["mlm"], tmp_path / "model")
    (Path(folder) / "tokenizer.json").unlink()
    with pytest.raises(EvaluationError, match="not a model that can be evaluated"):
        run(folder, "--data", files / "rows.tsv", "--text", "sentence", "--label", "mood", "--dry-run")


@pytest.mark.parametrize("option", [("--grid", "huge"), ("--pooling", "max")])
def test_the_suite_refuses_a_grid_or_pooling_that_is_not_there(exports, option):
    with pytest.raises(EvaluationError, match=f"no (grid of this name|such {option[0][2:]})"):
        CliRunner().invoke(app, ["eval", exports["mlm"], "--suite", "classification", *option], catch_exceptions=False)
