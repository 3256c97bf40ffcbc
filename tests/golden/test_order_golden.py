"""Orders for fixed keys. A change here changes what every recipe trains on: raise ORDER_VERSION and say so."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from order_fakes import FakeStore, make_phase

from seqpair.data.order.batches import read_batch
from seqpair.data.order.feistel import KeyedPermutation
from seqpair.data.order.ledger import LedgerRecord
from seqpair.data.order.order import ORDER_VERSION, PhaseOrder


def digest_of(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(array.astype("<i8").tobytes() for array in arrays)).hexdigest()[:32]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1, "af5570f5a1810b7af78caf4bc70a660f"),
        (2, "4cbbd8ca5215b8d161aec181a74b694f"),
        (3, "23e8d60b496f9e373ac6805ef95c5c0b"),
        (300, "a6e7f9e222a71e72cdfe9ddddd3df015"),
        (65_537, "c476bede1c4046ded2e60396cfa7876b"),
        (10**12, "84e1a01a81551c6710bc03e9229a26d1"),
        (2**62 - 1, "acd1951c7e874224d9cac34d99b51220"),
    ],
)
def test_permutations_of_fixed_keys_do_not_change(size, expected):
    numbers = np.unique(np.arange(1000) * max(1, size // 1000) % size)
    assert digest_of(KeyedPermutation(size, 17, "golden", "pretrain", 3).forward(numbers)) == expected


@pytest.fixture
def order(tmp_path):
    stores = {
        "prose": FakeStore(tmp_path / "prose", [(37 * i) % 61 for i in range(50)], "prose-digest"),
        "code": FakeStore(tmp_path / "code", [(53 * i) % 97 for i in range(80)], "code-digest", first_token=900),
    }
    return PhaseOrder(7, make_phase({"prose": 0.4, "code": 0.6}, positions=160, sequences=16), stores)


def test_an_order_of_a_fixed_key_does_not_change(order):
    refs = order.refs(np.arange(3000))
    assert ORDER_VERSION == 1
    assert order.digest[:32] == "e65cb7925c4b0aaefad00afb66952713"
    assert digest_of(refs.source, refs.sequence, refs.epoch) == "2f5b9266477909c13de2cb0bcdb3b84c"


@pytest.mark.parametrize(
    ("format", "expected"),
    [(1, ["06ebdf138741671f", "5870b947c6147f7f"]), (2, ["15f78ec1736253df", "c751ed1a8f79f7e5"])],
)
def test_records_of_a_fixed_key_do_not_change_in_any_format(order, format, expected):
    assert [LedgerRecord.of(read_batch(order, step), format).digest[:16] for step in (0, 9)] == expected
