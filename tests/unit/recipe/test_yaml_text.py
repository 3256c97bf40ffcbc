import math

import pytest

from seqpair.errors import RecipeError
from seqpair.recipe.merge import strip
from seqpair.recipe.yaml_text import Leaf, plain_scalar, read_tree


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-3", 3e-3),
        ("3E3", 3e3),
        ("1.5", 1.5),
        (".5", 0.5),
        ("-2.5e+1", -25.0),
        ("1_000", 1000),
        ("-7", -7),
        ("010", 10),
        ("1:15", "1:15"),
        ("0x10", "0x10"),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("300M", "300M"),
        ("2024-01-01", "2024-01-01"),
        (".inf", math.inf),
    ],
)
def test_scalar_means_what_it_looks_like(text: str, value: object) -> None:
    found = strip(read_tree(f"key: {text}", "file x.yaml"))
    assert found == {"key": value}
    assert type(found["key"]) is type(value)
    assert plain_scalar(text) == value


def test_quoted_scalars_stay_text() -> None:
    assert strip(read_tree("a: '3e-3'\nb: \"true\"\nc: |\n  12\n", "x")) == {"a": "3e-3", "b": "true", "c": "12\n"}


def test_leaves_know_their_line() -> None:
    tree = read_tree("a: 1\nb:\n  - x\n  - {c: 2}\n", "file my.yaml")
    origins: dict[str, str] = {}
    strip(tree, origins=origins)
    assert origins == {"a": "file my.yaml:1", "b.0": "file my.yaml:3", "b.1.c": "file my.yaml:4"}
    assert read_tree("5", "--set", with_lines=False) == Leaf(5, "--set")


def test_an_empty_text_has_no_keys() -> None:
    assert read_tree("# nothing\n", "x") == {}


def test_anchors_work() -> None:
    assert strip(read_tree("a: &x {b: 1}\nc: *x\n", "x")) == {"a": {"b": 1}, "c": {"b": 1}}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a: 1\nb: 2\na: 3\n", ["line 3, column 1", "'a' stands twice"]),
        ("a: {b: 1, b: 2}\n", ["line 1, column 11", "'b' stands twice"]),
        ("a: 1\n\tb: 2\n", ["line 2, column 1", "spaces, not tabs"]),
        ("a: [1, 2\nb: 3\n", ["file x.yaml, line 2", "is not YAML"]),
        ("a: !!python/object:os.system x\n", ["line 1, column 4", "tags are not used"]),
        ("a: !!str 5\n", ["tags are not used"]),
        ("? [a, b]\n: 1\n", ["a key must be text"]),
        ("a: &a [*a]\n", ["alias points to itself"]),
        ("a: *nothing\n", ["line 1, column 4"]),
        ("a: 1\n---\nb: 2\n", ["is not YAML", "line 2"]),
        ("a: \x00\n", ["is not YAML"]),
    ],
)
def test_faults_name_the_place(text: str, parts: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        read_tree(text, "file x.yaml")
    for part in parts:
        assert part in str(caught.value)
    assert "next:" in str(caught.value)
