import pytest

from seqpair.errors import RecipeError
from seqpair.recipe.merge import apply_set, merge_trees, nearest, strip
from seqpair.recipe.yaml_text import Tree, read_tree

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


def test_nearest_word() -> None:
    assert nearest("seqlen", ["name", "seq_len"]) == " (did you mean 'seq_len'?)"
    assert nearest("learning_rate", ["beta1", "lr"]) == " (did you mean 'lr'?)"
    assert nearest("zzz", ["name", "seq_len"]) == ""
