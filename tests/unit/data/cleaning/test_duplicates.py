import hashlib
import random
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqpair.data.cleaning import duplicates as signatures
from seqpair.data.cleaning.duplicates import (
    EXACT,
    KEPT,
    NEAR,
    Duplicates,
    SignatureParts,
    bands_of,
    find_duplicates,
    near_signatures,
    text_digest,
)
from seqpair.data.cleaning.words import words_of
from seqpair.errors import DataError
from seqpair.recipe.cleaning_spec import DuplicatesSpec, NearDuplicatesSpec

pytest.importorskip("rensa", reason="near duplicates need the extra `clean`")
NEARLY = DuplicatesSpec(near=NearDuplicatesSpec())


def found_in(
    texts: Sequence[str], spec: DuplicatesSpec = NEARLY, usable: Sequence[bool] | None = None, parts: int = 1
) -> Duplicates:
    digests = np.frombuffer(b"".join(map(text_digest, texts)), dtype="<u8").reshape(-1, 2)
    rows, comparable = near_signatures(words_of(texts), spec.near or NearDuplicatesSpec())
    cuts = np.array_split(np.arange(len(texts)), parts)
    columns = SignatureParts([np.ascontiguousarray(rows[cut].T) for cut in cuts])
    allowed = np.ones(len(texts), dtype=bool) if usable is None else np.array(usable)
    return find_duplicates(digests, allowed, comparable, columns, spec)


def story(seed: int, words: int = 200) -> str:
    generator = random.Random(seed)
    return " ".join(f"word{generator.randrange(3000)}" for _ in range(words))


def edited(text: str, edits: int, seed: int) -> str:
    generator = random.Random(seed)
    words = text.split()
    for place in generator.sample(range(len(words)), edits):
        words[place] = "edited"
    return " ".join(words)


def overlap(one: str, other: str) -> float:
    sets = [{tuple(text.split()[i : i + 5]) for i in range(len(text.split()) - 4)} for text in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_planted_duplicates_are_found_and_nothing_else_is() -> None:
    originals = [story(seed) for seed in range(400)]
    exact = originals[::8]
    clear = [edited(text, 2, seed) for seed, text in enumerate(originals[1::8])]  # overlap above 0.9
    far = [edited(text, 20, seed) for seed, text in enumerate(originals[2::8])]  # overlap about 0.4
    texts = [*originals, *exact, *clear, *far]
    kind = found_in(texts).kind
    assert min(map(overlap, originals[1::8], clear)) > 0.88
    assert max(map(overlap, originals[2::8], far)) < 0.65
    borders = np.cumsum([len(originals), len(exact), len(clear), len(far)])
    parts = np.split(kind, borders[:-1])
    assert (parts[0] == KEPT).all()
    assert (parts[1] == EXACT).all()
    assert (parts[2] == NEAR).sum() >= 49  # of 50
    assert (parts[3] == KEPT).sum() >= 49


def test_partners_stay_and_stand_before() -> None:
    texts = [story(1), story(2), edited(story(1), 1, 0), story(1), edited(story(1), 1, 0), story(2)]
    found = found_in(texts)
    assert found.kind.tolist() == [KEPT, KEPT, NEAR, EXACT, EXACT, EXACT]
    assert found.partner.tolist() == [-1, -1, 0, 0, 0, 1]  # the fifth equals the third, which itself is removed
    assert found.similarity[[3, 5]].tolist() == [1.0, 1.0]
    assert 0.8 <= found.similarity[2] < 1.0


def test_a_chain_does_not_remove_what_resembles_nothing_that_stays() -> None:
    links = [story(5)]
    for step in range(6):
        links.append(edited(links[-1], 3, step))
    found = found_in(links)
    removed = np.flatnonzero(found.kind == NEAR)
    assert 0 < len(removed) < 6
    for place in removed.tolist():
        partner = int(found.partner[place])
        assert found.kind[partner] == KEPT
        assert overlap(links[place], links[partner]) > 0.7


def test_a_document_that_another_rule_removed_is_no_partner() -> None:
    texts = [story(1), story(1), edited(story(1), 1, 0)]
    assert found_in(texts, usable=[False, True, True]).kind.tolist() == [KEPT, KEPT, NEAR]
    assert found_in(texts, usable=[False, True, True]).partner.tolist() == [-1, -1, 1]
    assert found_in(texts, usable=[False, False, True]).kind.tolist() == [KEPT, KEPT, KEPT]


def test_only_what_is_asked_for_is_removed() -> None:
    texts = [story(1), story(1), edited(story(1), 1, 0), "short", "short", "Short"]
    assert found_in(texts, DuplicatesSpec()).kind.tolist() == [KEPT, EXACT, KEPT, KEPT, EXACT, KEPT]
    near_alone = DuplicatesSpec(exact=False, near=NearDuplicatesSpec())
    assert found_in(texts, near_alone).kind.tolist() == [KEPT, NEAR, NEAR, KEPT, KEPT, KEPT]
    strict = DuplicatesSpec(near=NearDuplicatesSpec(similarity=1.0))
    assert found_in(texts, strict).kind.tolist()[:3] == [KEPT, EXACT, KEPT]


def test_nothing_and_one_document() -> None:
    assert len(found_in([]).kind) == 0
    assert found_in([story(1)]).kind.tolist() == [KEPT]


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=25), st.integers(1, 4))
def test_the_outcome_is_a_function_of_the_order_alone(plan: list[tuple[int, int]], parts: int) -> None:
    texts = [edited(story(seed, 60), edits, seed) if edits else story(seed, 60) for seed, edits in plan]
    found = found_in(texts)
    again = found_in(texts, parts=parts)
    for name in ("kind", "partner", "similarity"):
        assert np.array_equal(getattr(found, name), getattr(again, name))
    for length in range(len(texts)):  # what comes later changes nothing
        assert np.array_equal(found_in(texts[:length]).kind, found.kind[:length])
    partners = found.partner[found.kind != KEPT]
    assert (found.kind[partners] == KEPT).all()
    assert (partners < np.flatnonzero(found.kind != KEPT)).all()


@settings(max_examples=25)
@given(st.lists(st.integers(0, 9), max_size=30), st.randoms(use_true_random=False))
def test_whatever_the_order_one_of_equal_documents_stays(seeds: list[int], generator: random.Random) -> None:
    texts = [f"text {seed}" for seed in seeds]
    generator.shuffle(texts)
    kept = [text for text, kind in zip(texts, found_in(texts, DuplicatesSpec()).kind, strict=True) if kind == KEPT]
    assert sorted(kept) == sorted(set(texts))
    assert kept == list(dict.fromkeys(texts))


pytest.importorskip("rensa", reason="near duplicates need the extra `clean`")
SPEC = NearDuplicatesSpec()
TEXTS = [" ".join(f"w{(7 * place * place + row) % 91}" for place in range(60 + row)) for row in range(8)]
GOLDEN = "940e9f1ef448a95f15620de8ad5b2cd41d529b8dba98be548cf122b90010459c"
SHOWN = """
import hashlib
from seqpair.data.cleaning.duplicates import near_signatures
from seqpair.data.cleaning.words import words_of
from seqpair.recipe.cleaning_spec import NearDuplicatesSpec
texts = [" ".join(f"w{(7 * place * place + row) % 91}" for place in range(60 + row)) for row in range(8)]
print(hashlib.sha256(near_signatures(words_of(texts), NearDuplicatesSpec())[0].tobytes()).hexdigest())
"""


def test_signatures_are_those_of_every_process_machine_and_batch() -> None:
    rows, comparable = near_signatures(words_of(TEXTS), SPEC)
    assert rows.shape == (8, 128)
    assert comparable.all()
    assert hashlib.sha256(rows.tobytes()).hexdigest() == GOLDEN
    printed = subprocess.run([sys.executable, "-c", SHOWN], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == GOLDEN
    for row, text in enumerate(TEXTS):
        assert np.array_equal(near_signatures(words_of([text]), SPEC)[0][0], rows[row])


def test_short_texts_are_not_compared() -> None:
    rows, comparable = near_signatures(words_of(["one two", "", " ".join(["word"] * 20)]), SPEC)
    assert comparable.tolist() == [False, False, True]
    assert rows.shape == (3, 128)


def test_the_estimate_is_near_the_true_overlap() -> None:
    generator = np.random.default_rng(3)
    errors = []
    for _ in range(100):
        words = [f"v{number}" for number in generator.integers(0, 5000, 150)]
        edited = list(words)
        for place in generator.integers(0, 150, generator.integers(0, 20)):
            edited[place] = "changed"
        sets = [{tuple(text[i : i + 5]) for i in range(146)} for text in (words, edited)]
        rows, _ = near_signatures(words_of([" ".join(words), " ".join(edited)]), SPEC)
        errors.append((rows[0] == rows[1]).mean() - len(sets[0] & sets[1]) / len(sets[0] | sets[1]))
    assert abs(np.mean(errors)) < 0.02
    assert np.sqrt(np.mean(np.square(errors))) < 0.05


def test_bands_find_what_they_should() -> None:
    for similarity in (0.5, 0.7, 0.8, 0.95, 1.0):
        bands, rows = bands_of(128, similarity)
        assert bands * rows <= 128
        assert 1 - (1 - similarity**rows) ** bands >= 0.99
    assert bands_of(128, 0.8) == (21, 6)


def test_a_digest_is_of_the_bytes() -> None:
    assert text_digest("a") == text_digest("a")
    assert len({text_digest(text) for text in ("a", "a ", "A", "")}) == 4


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rensa", None)
    with pytest.raises(DataError, match=r"seqpair\[clean\]"):
        signatures.minhash_version()
