"""Reading sets and pairs: what is refused with one clear error, and what a limit keeps."""

from __future__ import annotations

import json

import pytest

from seqpair.errors import DataError, EvaluationError
from seqpair.evaluate.retrieval.outcomes import read_scored_pairs
from seqpair.evaluate.retrieval.sets import (
    DOCUMENTS_PER_QUERY,
    LOCAL_SETS,
    checked_set,
    hold_out,
    read_folder,
    read_squad,
    read_training_pairs,
)


def rewrite(path, change):
    path.write_text(change(path.read_text()))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("corpus.jsonl", lambda text: text.replace('"text"', '"body"'), "corpus.jsonl, line 1 lacks a column"),
        ("corpus.jsonl", lambda text: text + text.splitlines()[0] + "\n", "line 11 repeats an id"),
        ("corpus.jsonl", lambda text: "{" + text, "line 1 is not JSON"),
        ("queries.jsonl", lambda text: text.replace('"river"', '"  "'), "a query of cosqa_python is empty"),
        ("queries.jsonl", lambda _text: "", "is not a retrieval set"),
        ("qrels.tsv", lambda text: text.replace("\td0\t", "\tnone\t"), "a document that does not exist"),
        ("qrels.tsv", lambda text: text.replace("q0\t", "none\t"), "a query that does not exist"),
        ("qrels.tsv", lambda text: text.replace("score", "grade"), "qrels.tsv lacks a column"),
        ("qrels.tsv", lambda text: text.replace("d0\t1", "d0\tgood"), "line 2 is not a judgement"),
        ("qrels.tsv", lambda text: text.replace("\t1\n", "\t0\n"), "no query of cosqa_python has a relevant document"),
    ],
)
def test_a_bad_folder_gives_one_clear_error(data, file, change, message):
    folder = data / "retrieval" / "cosqa_python"
    rewrite(folder / file, change)
    with pytest.raises((DataError, EvaluationError), match=message):
        read_folder(folder)


def test_a_missing_file_and_another_form_are_named(data):
    (data / "retrieval" / "cosqa_python" / "queries.jsonl").unlink()
    with pytest.raises(EvaluationError, match=r"(?s)is missing.*queries\.jsonl"):
        read_folder(data / "retrieval" / "cosqa_python")
    rewrite(data / "retrieval" / "xquad.en.json", lambda text: text.replace("context", "passage"))
    with pytest.raises(EvaluationError, match=r"not of SQuAD's form"):
        read_squad(data / "retrieval" / "xquad.en.json")


def test_queries_of_an_article_and_of_a_long_document_are_clusters(data):
    rewrite(
        data / "retrieval" / "xquad.en.json", lambda text: text.replace('{"paragraphs"', '{"title": "T", "paragraphs"')
    )
    passages = next(one for one in LOCAL_SETS if one.name == "xquad_passages").load(data, None)
    assert set(passages.clusters.values()) == {"T"}
    meetings = next(one for one in LOCAL_SETS if one.name == "qmsum_long").load(data, None)
    assert all(cluster in meetings.relevant[query] for query, cluster in meetings.clusters.items())
    assert not next(one for one in LOCAL_SETS if one.name == "cosqa").load(data, None).clusters


def test_titles_are_a_part_of_the_text_and_queries_without_answer_are_counted(data):
    folder = data / "retrieval" / "cosqa_python"
    rewrite(folder / "corpus.jsonl", lambda text: text.replace('"title": ""', '"title": "Of it"', 1))
    rewrite(folder / "qrels.tsv", lambda text: text.replace("q5\td5\t1\n", ""))
    found = read_folder(folder)
    assert found.documents["d0"] == "Of it river river text"
    assert found.unjudged == 1
    assert "q5" not in found.queries


def test_a_limit_keeps_the_first_queries_with_their_documents():
    documents = {f"d{n}": f"text {n}" for n in range(200)}
    queries = {f"q{n}": "some" for n in range(30)}
    whole = checked_set("made", documents, queries, {f"q{n}": {f"d{199 - n}": 1} for n in range(30)})
    small = whole.limited(3)
    assert list(small.queries) == ["q0", "q1", "q2"]
    assert len(small.documents) == 3 * DOCUMENTS_PER_QUERY
    assert {"d199", "d198", "d197"} <= set(small.documents)
    assert small.whole_documents == 200
    assert whole.limited(30) is whole


def test_scored_pairs_are_checked(data):
    path = data / "similarity" / "stsb-en-test.csv"
    lines = path.read_text().splitlines()
    for line, message in (("a,b", "lacks a column"), ("a,b,9", "has no score"), ("a,,2", "an empty sentence")):
        path.write_text("\n".join([*lines[:3], line]) + "\n")
        with pytest.raises(EvaluationError, match=f"row 4 {message}|row 4 has {message}"):
            read_scored_pairs(path)


def test_pairs_are_read_from_every_form_and_empty_ones_counted(tmp_path):
    rows = [{"question": f"what {n}", "answer": f"that {n}", "negatives": [f"no {n}"]} for n in range(30)]
    lines = [json.dumps(row) for row in [*rows, rows[0], {"question": "", "answer": "x", "negatives": []}]]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found = read_training_pairs(tmp_path / "a.jsonl")
    assert (len(found.pairs), found.left_out) == (30, 2)
    assert found.pairs[0].negatives == ("no 0",)
    table = "title\tbody\n" + "".join(f"t{n}\tb{n}\n" for n in range(30))
    (tmp_path / "a.tsv").write_text(table)
    assert len(read_training_pairs(tmp_path / "a.tsv", "title,body", most=25).pairs) == 25
    with pytest.raises(EvaluationError, match="no columns of a training pair"):
        read_training_pairs(tmp_path / "a.tsv")
    with pytest.raises(EvaluationError, match="line 2 lacks a column"):
        read_training_pairs(tmp_path / "a.tsv", "title,text")
    (tmp_path / "b.tsv").write_text("title\tbody\nx\ty\n")
    with pytest.raises(EvaluationError, match="too few training pairs"):
        read_training_pairs(tmp_path / "b.tsv", "title,body")


def test_nothing_held_out_is_trained_on(tmp_path):
    rows = [{"query": f"what {n % 50}", "positive": f"that {n % 40}"} for n in range(200)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = read_training_pairs(tmp_path / "a.jsonl").pairs
    kept, dev = hold_out(pairs)
    assert kept
    assert not {pair.query for pair in kept} & set(dev.queries.values())
    assert not {pair.positive for pair in kept} & set(dev.documents.values())
    assert hold_out(pairs)[1] == dev
