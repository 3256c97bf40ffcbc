import math

import pytest

from seqpair.errors import RecipeError
from seqpair.recipe.tree import Leaf, Tree, apply_set, merge_trees, plain_scalar, read_tree, strip


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


BASE = "a: {x: 1, y: 2}\nphases: [{name: one, n: 1}, {name: two, n: 2}]\nlist: [1, 2, 3]\n"


def tree(text: str) -> Tree:
    return read_tree(text, "file t.yaml")


def merged(over: str) -> object:
    return strip(merge_trees(tree(BASE), tree(over)))


def after_set(*assignments: str) -> object:
    result = tree(BASE)
    for assignment in assignments:
        result = apply_set(result, assignment)
    return strip(result)


def test_mappings_merge_lists_replace_null_deletes() -> None:
    assert merged("a: {y: 3, z: 4}\nlist: [9]\n") == {
        "a": {"x": 1, "y": 3, "z": 4},
        "phases": [{"name": "one", "n": 1}, {"name": "two", "n": 2}],
        "list": [9],
    }
    assert merged("a: {x: null}\nlist: null\nphases: [{name: new}]\nnever: null\n") == {
        "a": {"y": 2},
        "phases": [{"name": "new"}],
    }


def test_a_null_inside_a_new_section_deletes_nothing_and_stays_out() -> None:
    assert merged("new: {p: null, q: 1}\n")["new"] == {"q": 1}


def test_merging_changes_neither_side() -> None:
    base, over = tree(BASE), tree("a: {x: 5}")
    merge_trees(base, over)
    assert strip(base)["a"] == {"x": 1, "y": 2}
    assert strip(over) == {"a": {"x": 5}}


def test_named_items_merge() -> None:
    assert merged("phases: {two: {n: 5}}")["phases"] == [{"name": "one", "n": 1}, {"name": "two", "n": 5}]
    assert merged("phases: {one: null}")["phases"] == [{"name": "two", "n": 2}]
    with pytest.raises(RecipeError, match="no item named 'too' .did you mean 'two'"):
        merged("phases: {too: {n: 5}}")


def test_an_item_that_states_its_own_name_is_added_at_the_end() -> None:
    three = {"name": "three", "n": 3}
    assert merged("phases: {three: {name: three, n: 3}}")["phases"][2:] == [three]
    assert merged("phases: {three: {name: three, n: 3}, one: null}")["phases"] == [{"name": "two", "n": 2}, three]
    with pytest.raises(RecipeError, match="no item named 'three'"):
        merged("phases: {three: {name: other, n: 3}}")
    base = read_tree("phases: [{name: one, n: 1}]", "file x.yaml")
    assert strip(apply_set(base, "phases.three={name: three, n: 3}")) == {"phases": [{"name": "one", "n": 1}, three]}
    with pytest.raises(RecipeError, match="no item 'three'"):
        apply_set(base, "phases.three={n: 3}")


@pytest.mark.parametrize("path", ["phases.1.n", "phases.two.n"])
def test_set_reaches_list_items(path: str) -> None:
    assert after_set(f"{path}=512")["phases"] == [{"name": "one", "n": 1}, {"name": "two", "n": 512}]


def test_set_takes_yaml_values_and_makes_sections() -> None:
    result = after_set("a.x=3e-3", "new.deep.key={p: [1, 2]}", "a.y=", "list.0=7")
    assert result["a"] == {"x": 3e-3}
    assert result["new"] == {"deep": {"key": {"p": [1, 2]}}}
    assert result["list"] == [7, 2, 3]


def test_set_of_a_mapping_merges() -> None:
    assert after_set("a={z: 1}")["a"] == {"x": 1, "y": 2, "z": 1}


def test_set_notes_its_origin() -> None:
    origins: dict[str, str] = {}
    strip(apply_set(tree(BASE), "a.x=9"), origins=origins)
    assert origins["a.x"] == "--set"
    assert origins["a.y"] == "file t.yaml:1"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("a.x", "takes a path and a value"),
        ("=3", "takes a path and a value"),
        ("a..x=3", "takes a path and a value"),
        ("phases.2.n=1", "'phases' has no item '2'"),
        ("phases.tvo.n=1", "did you mean 'two'"),
        ("a.x.y=1", "leads nowhere"),
        ("a.x=[1", "--set, line 1"),
    ],
)
def test_set_that_cannot_be_applied(assignment: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        after_set(assignment)
