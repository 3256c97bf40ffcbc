"""Reading a study folder: all of it, and what is said when parts are absent or damaged."""

import shutil

import pytest

from seqpair.errors import EvaluationError
from seqpair.report.collect import collect_study


def test_a_finished_study_is_read_whole(finished_study):
    study = collect_study(finished_study)
    assert study.name == "demo"
    assert [member.name for member in study.members] == ["encoder", "decoder"]
    encoder, decoder = study.members
    assert set(encoder.outcomes) == {"continuation", "source_probe", "masked_accuracy"}
    assert set(decoder.outcomes) == {"continuation", "source_probe", "bits_per_byte"}
    assert encoder.outcomes["continuation"].ids == decoder.outcomes["continuation"].ids
    assert len(encoder.train) == encoder.plan.phases[0].steps
    assert {point.source for point in decoder.held_out} == {"prose", "code"}
    assert encoder.samples.filled[0].predictions[0] == (" os", 0.62)
    assert decoder.samples.generated[0].prompt == "    def get"
    assert study.order[0].comparison.same
    assert study.seconds["prepare"] == 21.0
    assert encoder.checkpoint.name == f"step{len(encoder.train)}"


def test_items_are_paired_by_name_whatever_their_order_in_the_file(finished_study):
    path = finished_study / "decoder" / "evaluation" / "continuation.items.jsonl"
    before = collect_study(finished_study).members[1].outcomes["continuation"]
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    after = collect_study(finished_study).members[1].outcomes["continuation"]
    assert after.ids == before.ids
    assert (after.values == before.values).all()


def test_only_what_is_absent_is_missing(finished_study):
    assert collect_study(finished_study).missing == [
        f"the stores are not in {finished_study.parent / 'stores'}, so the sources are described by the plan alone"
    ]


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("encoder/metrics.jsonl", "encoder: metrics.jsonl is missing, so there are no curves"),
        ("encoder/ledger.jsonl", "encoder: ledger.jsonl is missing, so its order is not proven"),
        ("decoder/export/seqpair_export.json", "decoder: export/seqpair_export.json is missing"),
        ("decoder/evaluation/samples.json", "decoder: evaluation/samples.json is missing"),
        (
            "decoder/evaluation/continuation.items.jsonl",
            "decoder: the result continuation cannot be read (the items of a result are missing)",
        ),
    ],
)
def test_an_absent_file_is_named(finished_study, path, sentence):
    (finished_study / path).unlink()
    assert sentence in collect_study(finished_study).missing


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("encoder/plan.json", "encoder: plan.json cannot be read (ValidationError"),
        ("encoder/metrics.jsonl", "encoder: metrics.jsonl is damaged after 0 steps (DamagedLinesError: line 1 of"),
        ("encoder/evaluation/samples.json", "encoder: evaluation/samples.json cannot be read (JSONDecodeError"),
        ("encoder/ledger.jsonl", "the ledgers cannot be compared (line 1 of"),
        ("encoder/evaluation/continuation.json", "encoder: the result continuation cannot be read ("),
    ],
)
def test_a_damaged_file_is_named_and_the_rest_is_kept(finished_study, path, sentence):
    (finished_study / path).write_text("{damaged\n")
    study = collect_study(finished_study)
    assert any(sentence in what for what in study.missing)
    assert [member.name for member in study.members] == ["encoder", "decoder"]


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(EvaluationError, match="there is no such study folder") as caught:
        collect_study(tmp_path / "nowhere")
    assert "seqpair run RECIPE" in str(caught.value)


def test_a_folder_that_is_no_study_is_refused(finished_study):
    with pytest.raises(EvaluationError, match="no member of a study has run in this folder") as caught:
        collect_study(finished_study / "encoder")
    assert "give the folder of a study" in str(caught.value)


def test_a_second_export_is_a_column_of_its_own(hybrid_study):
    members = {member.name: member for member in collect_study(hybrid_study).members}
    assert list(members) == ["encoder", "decoder", "both", "both as clm"]
    first, second = members["both"], members["both as clm"]
    assert "masked_accuracy" in first.outcomes
    assert "bits_per_byte" not in first.outcomes
    assert "bits_per_byte" in second.outcomes
    assert "masked_accuracy" not in second.outcomes
    assert (first.direction, second.direction) == ("bidirectional", "causal")
    assert first.train
    assert second.train == []
    assert second.samples.generated[0].prompt == "    def get"
    assert second.export["class"] == "OfTheSecondExport"


def test_a_second_export_is_held_against_no_ledger_of_its_own(hybrid_study):
    study = collect_study(hybrid_study)
    assert [check.second for check in study.order] == ["decoder", "both"]
    assert not any("both as clm" in what for what in study.missing)


@pytest.mark.parametrize("gone", [["evaluation-clm"], ["evaluation-clm", "export-clm"]])
def test_a_second_export_that_is_not_there_is_named(hybrid_study, gone):
    for name in gone:
        shutil.rmtree(hybrid_study / "both" / name)
    study = collect_study(hybrid_study)
    sentence = "both as clm: evaluation-clm/ contains no result" if len(gone) == 1 else "both: export-clm/ is missing"
    assert any(what.startswith(sentence) for what in study.missing), study.missing
