import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpair.data.cleaning import words as words_module
from seqpair.data.cleaning.words import inside_texts, ngram_hashes, words_of

PLAIN = st.text(alphabet="ab .,\n1-", max_size=40)


def listed(texts: list[str]) -> list[list[str]]:
    words = words_of(texts)
    return [
        [words.excerpt(place, 1) for place in range(words.offsets[text], words.offsets[text + 1])]
        for text in range(len(texts))
    ]


def test_a_word_is_a_run_of_letters_marks_and_digits() -> None:
    assert listed(["The CAT, sat: 3x on_it!", "", "..."]) == [["the", "cat", "sat", "3x", "on", "it"], [], []]
    assert listed(["\u6f22\u5b57\u3067 ok", "na\u00efve nai\u0308ve"]) == [
        ["\u6f22", "\u5b57", "\u3067", "ok"],
        ["na\u00efve", "na\u00efve"],
    ]
    assert listed(["\uff21\uff22"]) == [["ab"]]  # full width is the same letter


@given(st.lists(PLAIN, max_size=6))
def test_words_of_many_texts_are_the_words_of_each(texts: list[str]) -> None:
    assert listed(texts) == [re.findall(r"[ab1]+", text) for text in texts]
    together = words_of(texts)
    alone = [words_of([text]).hashes for text in texts]
    assert np.array_equal(together.hashes, np.concatenate([np.zeros(0, np.uint64), *alone]))


def test_hashes_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "alpha beta " * 50 + "gamma" * 30 + " delta"
    whole = words_of([text]).hashes
    monkeypatch.setattr(words_module, "_BLOCK_CHARACTERS", 16)
    assert np.array_equal(words_of([text]).hashes, whole)
    assert len(set(whole.tolist())) == 4


def test_hashes_are_those_of_every_process_and_machine() -> None:
    code = "from seqpair.data.cleaning.words import words_of; print(words_of(['River Stone']).hashes.tolist())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(words_of(["river, stone"]).hashes.tolist())
    assert printed.strip() == "[8857390081367326365, 9678736044103929886]"


@given(st.lists(st.integers(0, 3), max_size=20), st.integers(1, 6))
def test_ngrams_are_equal_where_their_words_are(numbers: list[int], n: int) -> None:
    hashes = np.array(numbers, dtype=np.uint64)
    found = ngram_hashes(hashes, [n])[0].tolist()
    plain = [tuple(numbers[place : place + n]) for place in range(len(numbers) - n + 1)]
    assert len(found) == len(plain)
    by_hash = dict(zip(found, plain, strict=True))
    assert [by_hash[value] for value in found] == plain
    assert len(by_hash) == len(set(plain))


def test_ngrams_of_two_lengths_never_agree() -> None:
    shorter, longer = ngram_hashes(np.zeros(4, dtype=np.uint64), [2, 3])
    assert set(shorter.tolist()).isdisjoint(longer.tolist())


@given(st.lists(st.integers(0, 7), max_size=8), st.integers(1, 5))
def test_no_ngram_reaches_over_the_end_of_its_text(sizes: list[int], n: int) -> None:
    offsets = np.cumsum([0, *sizes]).astype(np.int64)
    chosen, bounds = inside_texts(offsets, n)
    expected = [
        list(range(start, stop - n + 1))
        for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    ]
    assert [chosen[low:high].tolist() for low, high in zip(bounds[:-1], bounds[1:], strict=True)] == expected
