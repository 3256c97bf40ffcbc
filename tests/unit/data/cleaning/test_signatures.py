import hashlib
import subprocess
import sys

import numpy as np
import pytest

from seqpair.data.cleaning import signatures
from seqpair.data.cleaning.signatures import bands_of, near_signatures, text_digest
from seqpair.data.cleaning.words import words_of
from seqpair.errors import DataError
from seqpair.recipe.cleaning_spec import NearDuplicatesSpec

pytest.importorskip("rensa", reason="near duplicates need the extra `clean`")
SPEC = NearDuplicatesSpec()
TEXTS = [" ".join(f"w{(7 * place * place + row) % 91}" for place in range(60 + row)) for row in range(8)]
GOLDEN = "940e9f1ef448a95f15620de8ad5b2cd41d529b8dba98be548cf122b90010459c"
SHOWN = """
import hashlib
from seqpair.data.cleaning.signatures import near_signatures
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
