from pathlib import Path

import pytest
from pydantic import ValidationError

from seqpair.errors import RecipeError
from seqpair.recipe.cleaning_spec import CleaningSpec, effective_cleaning
from seqpair.recipe.data_spec import DataSpec, SourceSpec
from seqpair.recipe.load import load_recipe

SOURCES = [{"name": "a", "kind": "text"}, {"name": "b", "kind": "text"}]
AGAINST = [{"name": "quiz", "paths": ["quiz.jsonl"]}]


def test_nothing_is_declared_by_default_and_then_nothing_shows() -> None:
    data = DataSpec.model_validate({"sources": SOURCES})
    assert [source.cleaning for source in data.sources] == [None, None]
    assert "cleaning" not in data.sources[0].model_dump(mode="json")
    assert CleaningSpec().is_empty
    assert effective_cleaning(CleaningSpec(), CleaningSpec()) is None


def test_a_source_lays_its_keys_over_the_shared_ones_and_skips_sections() -> None:
    shared = {
        "length": {"min_words": 5, "max_bytes": "1M"},
        "duplicates": {"near": {}},
        "decontaminate": {"against": AGAINST},
    }
    own = {"length": {"min_words": 9}, "decontaminate": {"action": "report"}, "skip": ["duplicates"]}
    data = DataSpec.model_validate({"cleaning": shared, "sources": [SOURCES[0], {**SOURCES[1], "cleaning": own}]})
    first, second = (source.cleaning for source in data.sources)
    assert first is not None
    assert first.length is not None
    assert (first.length.min_words, first.length.max_bytes) == (5, 1_000_000)
    assert first.duplicates is not None
    assert second is not None
    assert second.length is not None
    assert (second.length.min_words, second.length.max_bytes) == (9, 1_000_000)
    assert second.duplicates is None
    assert second.decontaminate is not None
    assert (second.decontaminate.action, second.decontaminate.against[0].name) == ("report", "quiz")
    assert DataSpec.model_validate(data.model_dump()) == data
    assert SourceSpec.model_validate_json(data.sources[1].model_dump_json()) == data.sources[1]


@pytest.mark.parametrize(
    ("cleaning", "own", "message"),
    [
        ({"length": {"min_words": 5, "max_words": 4}}, None, "min_words 5 is above max_words 4"),
        ({"duplicates": {"exact": False}}, None, "neither 'exact' nor 'near'"),
        ({"duplicates": {"near": {"ngram_words": 5, "min_words": 3}}}, None, "such a text has no n-gram"),
        ({"duplicates": {"near": {"similarity": 0.2}}}, None, "greater than or equal to 0.5"),
        ({"decontaminate": {"against": AGAINST * 2}}, None, "'quiz' stands twice"),
        ({"decontaminate": {"min_words": 14, "against": AGAINST}}, None, "min_words 14 is above ngram_words 13"),
        ({"decontaminate": {}}, None, "names no evaluation set"),
        ({"skip": ["length"]}, None, "'skip' stands in a source"),
        ({}, {"duplicates": {}}, "a source can only skip it"),
        ({}, {"length": {"min_words": 1}, "skip": ["length"]}, "both stated and skipped"),
        ({"quality": {"max_digits": 0.1}}, None, "Extra inputs are not permitted"),
        ({"length": {"min_words": 5}}, {"length": {"max_words": 4}}, "min_words 5 is above max_words 4"),
    ],
)
def test_a_contradiction_is_refused(cleaning: dict[str, object], own: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DataSpec.model_validate({"cleaning": cleaning, "sources": [{**SOURCES[0], "cleaning": own}]})


def test_paths_of_evaluation_sets_are_relative_to_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "extends: test\n"
        "data:\n"
        "  cleaning:\n"
        "    decontaminate: {against: [{name: quiz, paths: [../eval/*.jsonl]}]}\n"
        "    quality: {max_top_ngram_frac: {2: 0.2}}\n"
    )
    loaded = load_recipe(str(recipe))
    rules = loaded.data.sources[0].cleaning
    assert rules is not None
    assert rules.decontaminate is not None
    assert rules.decontaminate.against[0].paths == (str(tmp_path / "../eval/*.jsonl"),)
    assert rules.quality is not None
    assert rules.quality.max_top_ngram_frac == {2: 0.2}
    with pytest.raises(RecipeError, match="unknown key 'data.cleaning.lengths'"):
        load_recipe(str(recipe), ["data.cleaning.lengths.min_words=3"])
