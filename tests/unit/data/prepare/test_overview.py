"""The figures of a recipe's data, prepared and not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpair.data.prepare.overview import GUESSED_BYTES_PER_TOKEN, length_histogram, overview_of
from seqpair.data.prepared import open_recipe_data
from seqpair.data.store.counts import counts_of, plan_members
from seqpair.recipe.load import load_recipe


def overview_of_recipe(recipe):
    plans = list(plan_members(recipe, list(recipe.members)).values())
    return overview_of(recipe.name, recipe.data, plans, counts_of(recipe), recipe.folder)


@given(st.lists(st.integers(0, 5000), max_size=60))
def test_every_document_is_in_the_one_bin_of_its_length(lengths):
    bins, longest = length_histogram(np.cumsum([0, *lengths]).astype(np.int64))
    assert longest == max(lengths, default=0)
    for item in bins:
        inside = [n for n in lengths if item.low <= n <= item.high]
        assert (item.documents, item.tokens) == (len(inside), sum(inside))
    assert sum(item.documents for item in bins) == len(lengths)
    assert all(later.low == earlier.high + 1 for earlier, later in zip(bins, bins[1:], strict=False))


def test_prepared_figures_are_those_of_the_stores(prepared_study):
    recipe = load_recipe(str(prepared_study.recipe))
    overview, prepared = overview_of_recipe(recipe), open_recipe_data(recipe)
    assert not overview.estimated
    assert [source.name for source in overview.sources] == ["notes", "tales"]
    for source in overview.sources:
        train, held_out = prepared.train[source.name], prepared.held_out[source.name]
        lengths = np.diff(train.offsets)
        assert (source.documents, source.tokens) == (len(lengths), lengths.sum())
        assert source.longest_tokens == lengths.max()
        assert source.bytes_per_token == pytest.approx(train.manifest.text_bytes / lengths.sum())
        assert (source.held_out_documents, source.held_out_tokens) == (
            held_out.manifest.documents,
            held_out.manifest.tokens,
        )
        assert sum(item.documents for item in source.lengths) == source.documents
    (phase,) = overview.phases
    assert phase.members == ("encoder", "decoder")
    assert [item.share for item in phase.sources] == pytest.approx([0.6, 0.4], abs=0.005)
    assert sum(item.tokens for item in phase.sources) == pytest.approx(phase.tokens, rel=0.01)
    assert overview.vocab_size == prepared.tokenizer.vocab_size


def test_too_many_epochs_are_warned_of(prepared_study):
    recipe = load_recipe(str(prepared_study.recipe), ["budget=400k"])
    notes, tales = overview_of_recipe(recipe).phases[0].sources
    assert notes.epochs > 4
    warnings = overview_of_recipe(recipe).warnings
    assert len(warnings) == sum(item.epochs > 4 for item in (notes, tales))
    assert f"'notes' is read {notes.epochs:.1f} times" in warnings[0]
    assert "by encoder, decoder" in warnings[0]


def test_epochs_are_weights_and_the_note_says_which_budget_reads_them(prepared_study, tmp_path):
    asked = ["phases.pretrain.mixture.notes.share=null", "phases.pretrain.mixture.notes.epochs=2"]
    asked += ["phases.pretrain.mixture.tales.share=null", "phases.pretrain.mixture.tales.epochs=1"]
    overview = overview_of_recipe(load_recipe(str(prepared_study.recipe), asked))
    notes, tales = overview.phases[0].sources
    assert notes.epochs / tales.epochs == pytest.approx(2, rel=0.02)
    assert len(overview.notes) == 2
    budget = overview.notes[0].split("; ")[1].split(" would")[0].replace(",", "")
    mended = overview_of_recipe(
        load_recipe(str(prepared_study.recipe), [*asked, f"phases.pretrain.budget_tokens={budget}"])
    )
    assert mended.phases[0].sources[0].epochs == pytest.approx(2, rel=0.05)


def test_what_is_not_prepared_is_guessed_and_said_to_be(tiny_study):
    recipe = load_recipe(str(tiny_study.recipe))
    overview = overview_of_recipe(recipe)
    assert overview.estimated
    notes = overview.sources[0]
    size = (tiny_study.folder / "notes.jsonl").stat().st_size
    assert (notes.prepared, notes.files, notes.disk_bytes, notes.documents) == (False, 1, size, None)
    assert notes.tokens == round(0.9 * size / GUESSED_BYTES_PER_TOKEN)
    reading = overview.phases[0].sources[0]
    assert reading.epochs == pytest.approx(0.6 * overview.phases[0].tokens / notes.tokens)


def test_a_missing_file_and_a_source_without_paths_are_named(tiny_study):
    (tiny_study.folder / "notes.jsonl").unlink()
    notes, tales = overview_of_recipe(load_recipe(str(tiny_study.recipe))).sources
    assert "there is no file or folder" in notes.problem
    assert tales.files == 40
    published = overview_of_recipe(load_recipe("ettin-17m"))
    assert {source.problem for source in published.sources} == {"it has no paths yet"}
    assert all(item.epochs is None and item.tokens for item in published.phases[0].sources)
