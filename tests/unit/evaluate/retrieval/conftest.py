"""Made-up sets of the suite's forms, and exports of random weights."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("mteb", reason="the eval extra is not installed")
pytest.importorskip("sentence_transformers", reason="the eval extra is not installed")

from seqpair.evaluate.retrieval.embedders import require_sentence_transformers
from seqpair.evaluate.retrieval.with_mteb import require_mteb

TOPICS = ("river", "engine", "violin", "orchard", "glacier", "harbour", "lantern", "meadow", "copper", "falcon")


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No library may look anything up."""
    import datasets
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # read from the environment at import
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    require_sentence_transformers()
    require_mteb()


@pytest.fixture
def data(tmp_path):
    """A data folder with every input of the suite, ten topics of a few words each."""
    folder = tmp_path / "data"
    for name in ("cosqa_python", "qmsum_long"):
        own = folder / "retrieval" / name
        documents = [{"_id": f"d{n}", "title": "", "text": f"{word} {word} text"} for n, word in enumerate(TOPICS)]
        write_lines(own / "corpus.jsonl", documents)
        write_lines(own / "queries.jsonl", [{"_id": f"q{n}", "text": word} for n, word in enumerate(TOPICS[:6])])
        rows = "".join(f"q{n}\td{n}\t1\n" for n in range(6))
        (own / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    articles = [
        {"context": f"About the {word}.", "qas": [{"id": f"x{n}", "question": f"What of the {word}?"}]}
        for n, word in enumerate(TOPICS)
    ]
    (folder / "retrieval" / "xquad.en.json").write_text(json.dumps({"data": [{"paragraphs": articles}]}))
    write_lines(
        folder / "retrieval" / "pairs.jsonl",
        [{"question": f"{word} {n}?", "answer": f"the {word} is {n}"} for n in range(6) for word in TOPICS],
    )
    for part in ("train", "dev", "test"):
        rows = [f"the {a} runs,a {b} runs,{5.0 if a == b else n % 4}" for n, a in enumerate(TOPICS) for b in TOPICS[:4]]
        path = folder / "similarity" / f"stsb-en-{part}.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(rows) + "\n")
    return folder
