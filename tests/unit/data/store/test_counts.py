import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from seqpair.data.prepare.preparation import prepare
from seqpair.data.store import counts as catalogue
from seqpair.data.store.counts import count_sequences, stats_for
from seqpair.data.store.manifest import index_path
from seqpair.errors import StoreError
from seqpair.recipe.data_spec import SourceSpec, TokenizerSpec

TOKENIZER = TokenizerSpec(train_vocab_size=300, pad_vocab_to=128)


@pytest.fixture
def source(tmp_path: Path) -> SourceSpec:
    rows = [json.dumps({"text": f"{i} " + "word " * i}) for i in range(1, 60)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    return SourceSpec(name="s", kind="jsonl", paths=(str(tmp_path / "a.jsonl"),), held_out_frac=0.1)


def test_nothing_is_known_before_preparation(source: SourceSpec, tmp_path: Path) -> None:
    assert stats_for([source], TOKENIZER, tmp_path / "stores", [64]) is None


def test_stats_are_those_of_the_stores(source: SourceSpec, tmp_path: Path) -> None:
    prepared = prepare([source], TOKENIZER, tmp_path / "stores")
    found = stats_for([source], TOKENIZER, tmp_path / "stores", [64, 17])
    assert found is not None
    stats, vocab_size = found
    assert vocab_size == prepared.tokenizer.vocab_size == 384
    assert stats == {"s": prepared.train["s"].stats([17, 64])}
    assert stats["s"].sequences[17] == prepared.train["s"].pieces(17).count
    assert stats_for([source], TokenizerSpec(), tmp_path / "stores", [64]) is None


def test_counting_in_parts_is_counting_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = np.random.default_rng(5).integers(1, 500, 1000)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    expected = sum(-(-int(n) // 30) for n in lengths)
    assert count_sequences(offsets, 32) == expected
    monkeypatch.setattr(catalogue, "_ROWS_AT_ONCE", 13)
    assert count_sequences(offsets, 32) == expected


def test_a_damaged_index_is_an_error(source: SourceSpec, tmp_path: Path) -> None:
    prepare([source], TOKENIZER, tmp_path / "stores")
    index_path([source], TOKENIZER, tmp_path / "stores").write_text('{"stores": 3}')
    with pytest.raises(StoreError, match=r"the index .* is not readable"):
        stats_for([source], TOKENIZER, tmp_path / "stores", [64])


def test_the_catalogue_imports_nothing_heavy() -> None:
    code = "import sys, seqpair.data.store.counts; print(sorted({'torch', 'tokenizers', 'pyarrow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
