import re
from pathlib import Path

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from seqpair.recipe.data_spec import OPTIONS_BY_KIND, DataSpec, SourceSpec, TokenizerSpec, require_paths

PAGE = (Path(__file__).parents[3] / "docs" / "sources.md").read_text(encoding="utf-8")


def test_the_pages_example_is_a_data_section_with_every_kind_that_it_adds() -> None:
    [text] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    data = DataSpec.model_validate(YAML(typ="safe").load(text)["data"])
    require_paths(data.sources)
    assert {source.kind for source in data.sources} >= {"mds", "csv", "webdataset", "hub"}
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == set(OPTIONS_BY_KIND)


def test_what_is_not_set_is_not_written_so_older_digests_stay() -> None:
    spec = SourceSpec(name="s", kind="jsonl", paths=("a",))
    assert set(spec.model_dump()) == {"name", "kind", "paths", "text_field", "id_field", "part", "held_out_frac"}
    pinned = SourceSpec(name="s", kind="csv", paths=("a",), delimiter=";")
    assert SourceSpec.model_validate(pinned.model_dump(mode="json")) == pinned
    assert pinned.model_dump()["delimiter"] == ";"


@pytest.mark.parametrize("kind", sorted(OPTIONS_BY_KIND))
def test_a_kind_refuses_the_options_of_the_others(kind: str) -> None:
    values = {"part": "code", "delimiter": ";", "ids_field": "x", "config": "c", "split": "s", "stream": True}
    for option in set(values) - set(OPTIONS_BY_KIND[kind]):
        with pytest.raises(ValidationError, match=f"of kind '{kind}' does not use {option}"):
            SourceSpec.model_validate({"name": "s", "kind": kind, option: values[option]})


def test_the_address_of_a_tokenizer_is_written_without_its_secrets() -> None:
    spec = TokenizerSpec(path="https://me:hidden@host/tokenizer?token=grant")
    assert spec.model_dump()["path"] == spec.model_dump(mode="json")["path"] == "https://host/tokenizer"
    assert spec.path == "https://me:hidden@host/tokenizer?token=grant"
    assert TokenizerSpec().model_dump()["path"] is None
