"""A study's text: the choice of held-out items is fixed, within the budget and whole; the unigram baseline."""

from __future__ import annotations

import numpy as np
import pytest
from checkpointed_run import write_run

from seqpair.data.prepared import open_recipe_data
from seqpair.evaluate import study_text
from seqpair.evaluate.study_text import UnigramModel, held_out_sequences, held_out_texts, held_out_windows
from seqpair.recipe.load import load_recipe


@pytest.fixture(scope="module")
def held_out(prepared_study):
    return open_recipe_data(load_recipe(str(prepared_study.recipe))).held_out


def test_sequences_are_the_pieces_of_training(held_out):
    found = held_out_sequences(held_out, 32, 10**9, "all")
    assert len({sequence.id for sequence in found}) == len(found)
    for source, store in held_out.items():
        own = [sequence for sequence in found if sequence.source == source]
        assert sum(len(sequence.content) for sequence in own) == store.manifest.tokens
        assert max(len(sequence.content) for sequence in own) <= 30


def test_a_budget_takes_the_first_of_the_same_order(held_out):
    whole = [sequence.id for sequence in held_out_sequences(held_out, 32, 10**9, "task")]
    some = held_out_sequences(held_out, 32, 400, "task")
    sources = {sequence.source for sequence in some}
    assert sources == set(held_out)
    assert 400 <= sum(len(sequence.content) for sequence in some) < 400 + 32 * len(sources)
    for source in sources:
        own = [sequence.id for sequence in some if sequence.source == source]
        assert own == [name for name in whole if name.startswith(f"{source}/")][: len(own)]


def test_another_purpose_takes_another_sample(held_out):
    samples = [{sequence.id for sequence in held_out_sequences(held_out, 32, 400, name)} for name in ("one", "two")]
    assert samples[0] != samples[1]


def test_windows_do_not_overlap_and_lie_in_one_document(held_out):
    for source, windows in held_out_windows(held_out, 20, "task").items():
        store = held_out[source]
        assert len({window.id for window in windows}) == len(windows)
        assert len(windows) == sum(len(store.document_tokens(row)) // 20 for row in range(store.manifest.documents))
        for window in windows[:50]:
            offset = int(window.id.rsplit("@", 1)[1])
            assert offset % 20 == 0
            assert np.array_equal(window.content, store.document_tokens(window.row)[offset : offset + 20])
            assert window.id == f"{source}/{store.document_id(window.row)}@{offset}"


def test_a_checkpoint_whose_stores_are_gone_has_no_held_out_texts(tmp_path):
    assert held_out_texts(write_run(tmp_path, "clm")) is None


def test_one_is_added_to_every_entry():
    model = UnigramModel(np.array([6, 0, 1]))
    assert 2.0**-model.bits == pytest.approx([0.7, 0.1, 0.2])
    assert model.most_frequent == 0


def test_counts_are_those_of_all_training_stores(prepared_study, monkeypatch):
    prepared = open_recipe_data(load_recipe(str(prepared_study.recipe)))
    tokens = np.concatenate([np.asarray(store.tokens) for store in prepared.train.values()])
    counts = np.bincount(tokens, minlength=prepared.tokenizer.entries)
    monkeypatch.setattr(study_text, "_CHUNK_TOKENS", 100)
    model = UnigramModel.of(prepared.train, prepared.tokenizer)
    assert 2.0**-model.bits == pytest.approx((counts + 1) / (counts.sum() + len(counts)))
    assert model.most_frequent == counts.argmax()
