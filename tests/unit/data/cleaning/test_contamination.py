from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqpair.data.cleaning import contamination
from seqpair.data.cleaning.contamination import EvalIndex, Hit, build_index
from seqpair.data.cleaning.eval_sets import EvalItem
from seqpair.data.cleaning.words import words_of

LONG = "the old lighthouse keeper counted seventeen ships before the fog came down over the bay that night"
SHORT = "seven grey geese flew over the frozen lake"
TOO_SHORT = "a very short question"


def index_of(folder: Path, *texts: str, n: int = 13, least: int = 8, name: str = "quiz") -> EvalIndex:
    folder.mkdir(exist_ok=True)
    build_index([(name, EvalItem("q.jsonl", row, (text,))) for row, text in enumerate(texts, 1)], n, least, folder)
    return EvalIndex(folder)


def hits(index: EvalIndex, *documents: str) -> dict[int, list[Hit]]:
    return index.search(words_of(documents))


def test_planted_items_are_found_and_others_are_not(tmp_path: Path) -> None:
    index = index_of(tmp_path, LONG, SHORT, TOO_SHORT)
    others = [f"document number {place} speaks of rivers and of nothing else at all today" for place in range(30)]
    documents = list(others)
    documents[4] = "Before. THE OLD lighthouse-keeper, counted seventeen ships before the fog came down over the bay!"
    documents[9] = f"He wrote: {SHORT.upper()}... and so on"
    documents[13] = f"{TOO_SHORT} that nobody searches for"
    documents[17] = " ".join(LONG.split()[:12])  # one word less than an n-gram
    documents[20] = " ".join(reversed(LONG.split()))
    found = hits(index, *documents)
    assert sorted(found) == [4, 9]
    (hit,) = found[4]
    assert (hit.eval_set, hit.file, hit.row, hit.item_ngrams) == ("quiz", "q.jsonl", 1, 5)
    assert hit.shared_ngrams == 3
    assert hit.text == "the old lighthouse-keeper, counted seventeen ships before the fog came down over the bay"
    assert hit.item_frac == pytest.approx(0.6)
    assert [(hit.row, hit.shared_ngrams, hit.item_ngrams) for hit in found[9]] == [(2, 1, 1)]


def test_the_summary_says_what_is_not_searched_for(tmp_path: Path) -> None:
    (summary,) = index_of(tmp_path, LONG, SHORT, TOO_SHORT).sets
    assert (summary.items, summary.texts, summary.whole_texts, summary.too_short_texts) == (3, 3, 1, 1)
    assert summary.ngrams == 6


def test_an_ngram_over_two_documents_is_no_hit(tmp_path: Path) -> None:
    words = LONG.split()
    assert hits(index_of(tmp_path, LONG), " ".join(words[:9]), " ".join(words[9:])) == {}


def test_an_item_that_stands_in_two_sets_is_found_in_both(tmp_path: Path) -> None:
    items = [("one", EvalItem("a", 1, (LONG,))), ("two", EvalItem("b", 7, (LONG, SHORT)))]
    build_index(items, 13, 8, tmp_path)
    found = hits(EvalIndex(tmp_path), LONG)[0]
    assert [(hit.eval_set, hit.row, hit.shared_ngrams, hit.item_ngrams) for hit in found] == [
        ("one", 1, 5, 5),
        ("two", 7, 5, 6),
    ]


def test_an_index_without_ngrams_finds_nothing(tmp_path: Path) -> None:
    assert hits(index_of(tmp_path, "too short"), LONG) == {}


def test_the_index_does_not_depend_on_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [LONG, SHORT, f"{SHORT} {LONG}", TOO_SHORT] * 3
    index_of(tmp_path / "whole", *texts)
    monkeypatch.setattr(contamination, "_BATCH_CHARACTERS", 1)
    index_of(tmp_path / "single", *texts)
    for name in ("hashes.npy", "starts.npy", "owners.npy", "filter.npy"):
        assert np.array_equal(np.load(tmp_path / "whole" / name), np.load(tmp_path / "single" / name)), name


WORDS = st.lists(st.sampled_from("ab"), max_size=14).map(" ".join)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(WORDS, min_size=1, max_size=4), st.lists(WORDS, min_size=1, max_size=4))
def test_hits_are_those_of_a_plain_search(tmp_path: Path, texts: list[str], documents: list[str]) -> None:
    n, least = 4, 2
    grams = []
    for text in texts:
        words = text.split()
        size = n if len(words) >= n else len(words)
        grams.append({tuple(words[i : i + size]) for i in range(len(words) - size + 1)} if size >= least else set())
    found = hits(index_of(tmp_path, *texts, n=n, least=least), *documents)
    for place, document in enumerate(documents):
        words = document.split()
        inside = {tuple(words[i : i + m]) for m in range(least, n + 1) for i in range(len(words) - m + 1)}
        expected = {row: len(own & inside) for row, own in enumerate(grams, 1) if own & inside}
        assert {hit.row: hit.shared_ngrams for hit in found.get(place, [])} == expected
