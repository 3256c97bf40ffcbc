from pathlib import Path

import pytest

from seqpair.cli.eval_tables import AT_CHANCE, BELOW_CHANCE, show_report, show_table, standing
from seqpair.evaluate.results import TaskResult
from seqpair.evaluate.runner import SuiteReport


def result(
    task="piqa", *, value=0.6, chance=0.5, interval=(0.55, 0.65), better=True, n=100, suite="generative", lean=False
):
    return TaskResult(
        task=task,
        version=1,
        title=task,
        study="",
        member="encoder",
        metric="accuracy",
        unit="share",
        higher_is_better=better,
        chance=chance,
        n=n,
        value=value,
        interval=interval,
        interval_method="normal",
        settings={},
        model_digest="d",
        items="i.jsonl",
        suite=suite,
        is_lean=lean,
        standard_error=0.025,
    )


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({}, ""),
        ({"value": 0.52, "interval": (0.47, 0.57)}, AT_CHANCE),
        ({"value": 0.4, "interval": (0.35, 0.45)}, BELOW_CHANCE),
        ({"value": 0.4, "interval": (0.35, 0.45), "better": False}, ""),
        ({"value": 0.0, "interval": (0.0, 0.0), "chance": 0.0}, AT_CHANCE),
        ({"value": 0.0, "interval": (3e-18, 0.04), "chance": 0.0}, AT_CHANCE),
        ({"value": 0.4, "interval": (0.35, 0.45), "lean": True}, ""),
        ({"chance": None}, ""),
    ],
)
def test_a_result_is_held_against_what_guessing_gives(values, word):
    assert standing(result(**values)) == word


def test_models_stand_side_by_side_under_their_short_names(capsys):
    encoder = SuiteReport("runs/demo/encoder/export", Path("a"), [result(), result("blimp_pll", suite="blimp")])
    decoder = SuiteReport("runs/demo/decoder/export", Path("b"), [result(value=0.52, interval=(0.47, 0.57), n=90)])
    show_table([encoder, decoder])
    text = capsys.readouterr().out
    lines = [line.split() for line in text.splitlines()]
    assert ["task", "chance", "encoder", "decoder"] in lines
    assert ["piqa", "0.500", "0.600", "(0.025)", "0.520", "(0.025)"] in lines
    assert ["blimp_pll", "0.500", "0.600", "(0.025)", "-"] in lines
    assert "n 90 or 100" in text
    assert text.count(AT_CHANCE) == 1


def test_models_of_unlike_places_keep_their_names(capsys):
    show_table([SuiteReport(name, Path("a"), [result()]) for name in ("gpt2", "runs/x/encoder/export")])
    text = capsys.readouterr().out
    assert "gpt2" in text
    assert "runs/x/encoder/export" in text


def test_nothing_computed_makes_no_table(capsys):
    show_table([SuiteReport("gpt2", Path("a"), [], skipped={"piqa": "no data"})])
    assert capsys.readouterr().out == ""


def test_a_published_model_has_its_published_values_beside_its_own(capsys):
    def shown(model, *results):
        show_report(SuiteReport(model, Path("out"), list(results)))
        return [line for line in capsys.readouterr().out.splitlines() if " published: " in line]

    (line,) = shown("EleutherAI/pythia-160m@main", result("piqa"))
    assert line.endswith("PIQA, acc_norm: 62 % (" + line.rpartition("(")[2])
    assert "2507.11412" in line
    glue = shown("downloads/ModernBERT-base", result("glue_mnli", suite="classification"))
    assert len(glue) == 1
    assert "GLUE, mean of eight: 88.4 %" in glue[0]
    assert len(shown("jhu-clsp/ettin-encoder-17m", result("piqa"))) == 1
    assert "about 35.1 %" in shown("jhu-clsp/ettin-encoder-17m", result("piqa"))[0]
    assert shown("runs/demo/encoder/export", result("piqa")) == []
    assert shown("EleutherAI/pythia-160m", result("openbookqa", suite="other")) == []
