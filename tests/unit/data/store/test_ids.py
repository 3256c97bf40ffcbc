from pathlib import Path

import numpy as np
import pytest

from seqpair.data.store import ids as id_index
from seqpair.data.store.ids import IdIndexWriter, repeated_hashes, rows_of_hashes


def write(folder: Path, hashes: np.ndarray) -> Path:
    folder.mkdir()
    with IdIndexWriter(folder) as writer:
        for start in range(0, len(hashes), 37):
            writer.add(hashes[start : start + 37])
        writer.finish()
    return folder


@pytest.mark.parametrize("at_once", [10, 100, 1 << 20])
def test_the_index_is_sorted_whether_it_fits_into_memory_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(id_index, "SORTED_AT_ONCE", at_once)
    hashes = np.random.default_rng(1).integers(0, 1 << 64, 1000, dtype=np.uint64)
    hashes[[5, 700]] = hashes[300]
    folder = write(tmp_path / "a", hashes)
    order = np.argsort(hashes, kind="stable")
    np.testing.assert_array_equal(np.fromfile(folder / "ids.u64", dtype="<u8"), hashes[order])
    np.testing.assert_array_equal(np.fromfile(folder / "ids-rows.i64", dtype="<i8"), order)
    assert sorted(path.name for path in folder.iterdir()) == ["ids-rows.i64", "ids.u64"]
    np.testing.assert_array_equal(rows_of_hashes(folder, hashes[300:301]), [5, 300, 700])


@pytest.mark.parametrize("at_once", [10, 1 << 20])
def test_repeated_hashes_are_found_in_one_index_and_across_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(id_index, "SORTED_AT_ONCE", at_once)
    hashes = np.random.default_rng(2).integers(0, 1 << 64, 500, dtype=np.uint64)
    hashes[-2:] = [0, (1 << 64) - 1]
    one, two = hashes[:300].copy(), hashes[300:].copy()
    one[7], two[3] = one[200], one[40]
    folders = [write(tmp_path / "one", one), write(tmp_path / "two", two)]
    found = np.concatenate(list(repeated_hashes(folders)))
    assert set(found.tolist()) == {int(one[200]), int(one[40])}
    assert list(repeated_hashes([write(tmp_path / "none", one[:0]), write(tmp_path / "own", hashes)])) == []
