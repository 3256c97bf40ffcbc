"""A recipe's YAML as a tree whose leaves know their line, and merging such trees.

Scalars: `3e-3` is a float, `1_000` the integer 1000, `1:15` the text "1:15", `no` the text "no" (a yes-or-no key
still takes it as false); `true`, `false`, `null` and `~` are what YAML 1.2 says.

Merging, for `extends` and `--set`: mappings merge key by key; a list replaces a list; null deletes a key. A mapping
over a list whose items have names (`phases: {pretrain: {seq_len: 512}}`) merges into the items of those names; an item
that states its own name (`phases: {decay: {name: decay, ...}}`) is added to the list's end.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode
from ruamel.yaml.tokens import TagToken

from seqpair.errors import RecipeError
from seqpair.text import nearest

_DIGITS = "[0-9]+(?:_[0-9]+)*"
_INTEGER = re.compile(f"^[-+]?{_DIGITS}$")
_FLOAT = re.compile(rf"^[-+]?(?:{_DIGITS}(?:\.(?:{_DIGITS})?)?|\.{_DIGITS})(?:[eE][-+]?[0-9]+)?$")
_MOST_LETTERS_OF_A_NUMBER = 400
_MOST_DEPTH = 40
_MOST_NODES = 100_000
_MOST_TEXT = 1 << 22
_WORDS: dict[str, object] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}


@dataclass(frozen=True)
class Leaf:
    """A scalar and where it came from."""

    value: Any
    origin: str


Tree: TypeAlias = "dict[str, Tree] | list[Tree] | Leaf"


def plain_scalar(text: str) -> object:
    """Return what an unquoted YAML scalar means."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > _MOST_LETTERS_OF_A_NUMBER:
        return text
    if _INTEGER.match(text):
        return int(text)
    if _FLOAT.match(text):
        return float(text)
    return text


def read_tree(text: str, origin: str, *, with_lines: bool = True) -> Tree:
    """Read one YAML document into a tree of leaves.

    Args:
        text: The YAML text.
        origin: What to call the text, such as `file my.yaml`.
        with_lines: Add the line to each leaf's origin.

    Raises:
        RecipeError: A syntax error, a tab, a duplicate key, a tag, a key that is not text; a text too long or too deep,
            or aliases that stand for too much.
    """
    if len(text) > _MOST_TEXT:
        raise RecipeError(f"{origin} is too long for a recipe", seen=f"{len(text):,} characters", allowed="4 MiB")
    try:
        for token in YAML(typ="safe", pure=True).scan(text):
            if isinstance(token, TagToken):
                raise _fault("YAML tags are not used in recipes", origin, token, fix="put the value in quotes instead")
        node = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{origin}, line {mark.line + 1}, column {mark.column + 1}" if mark else origin
        problem = " ".join(part for part in (error.context, error.problem) if part)
        tab = "\t" in text.splitlines()[mark.line] if mark and mark.line < len(text.splitlines()) else False
        raise RecipeError(
            f"{where} is not YAML: {problem}",
            fix="indent with spaces, not tabs" if tab else "correct the line, or put the value in quotes",
        ) from error
    except YAMLError as error:
        raise RecipeError(f"{origin} is not YAML: {error}", fix="save the file as plain UTF-8 text") from error
    except RecursionError as error:
        raise RecipeError(f"{origin} is nested too deeply", allowed=f"{_MOST_DEPTH} levels") from error
    except (ValueError, OverflowError) as error:  # the scanner, at a number in a directive or an escape
        raise RecipeError(f"{origin} is not YAML: {error}", fix="save the file as plain UTF-8 text") from error
    if node is None:
        return {}
    return _tree(node, origin, with_lines, (), count())


def _tree(node: Node, origin: str, with_lines: bool, above: tuple[int, ...], seen: Iterator[int]) -> Tree:
    if id(node) in above:
        raise _fault("an alias points to itself", origin, node, fix="write the value out")
    if len(above) >= _MOST_DEPTH:
        raise _fault(f"a value lies deeper than {_MOST_DEPTH} levels", origin, node, fix="write it less deeply")
    if next(seen) >= _MOST_NODES:  # aliases of aliases stand for more values than any memory has
        raise _fault(f"there are more than {_MOST_NODES:,} values", origin, node, fix="use fewer aliases")
    above = (*above, id(node))
    if isinstance(node, ScalarNode):
        value = plain_scalar(node.value) if node.style is None else node.value
        return Leaf(value, f"{origin}:{node.start_mark.line + 1}" if with_lines else origin)
    if not isinstance(node, MappingNode):
        return [_tree(item, origin, with_lines, above, seen) for item in node.value]
    mapping: dict[str, Tree] = {}
    for key, value in node.value:
        if not isinstance(key, ScalarNode):
            raise _fault("a key must be text", origin, key, fix="write `key: value`")
        if key.value in mapping:
            raise _fault(f"the key '{key.value}' stands twice", origin, key, fix="delete one of the two")
        mapping[key.value] = _tree(value, origin, with_lines, above, seen)
    return mapping


def _fault(what: str, origin: str, at: Any, *, fix: str) -> RecipeError:
    mark = at.start_mark
    return RecipeError(f"{origin}, line {mark.line + 1}, column {mark.column + 1}: {what}", fix=fix)


def is_null(tree: Tree) -> bool:
    """Return whether a tree is the scalar null."""
    return isinstance(tree, Leaf) and tree.value is None


def item_names(items: list[Tree]) -> list[str]:
    """Return the names of a list's items; empty if any item has none."""
    names = [item.get("name") if isinstance(item, dict) else None for item in items]
    texts = [str(name.value) for name in names if isinstance(name, Leaf)]
    return texts if len(texts) == len(items) else []


def merge_trees(base: Tree, over: Tree, path: str = "") -> Tree:
    """Return `over` merged onto `base`; neither is changed.

    Raises:
        RecipeError: A mapping over a list names an item that the list does not have.
    """
    if isinstance(base, list) and isinstance(over, dict) and (names := item_names(base)):
        items: list[Tree] = list(base)
        for key, value in over.items():
            if key not in names:
                if _is_named(value, key):
                    items.append(value)
                    names.append(key)
                    continue
                raise RecipeError(
                    f"'{path}' has no item named '{key}'{nearest(key, names)}",
                    seen=f"{path}.{key} ({first_origin(value)})",
                    allowed=", ".join(names),
                    fix=f"use one of these names; to add an item, write `name: {key}` in it",
                )
            items[names.index(key)] = merge_trees(base[names.index(key)], value, f"{path}.{key}")
        return [item for item in items if not is_null(item)]
    if not isinstance(over, dict):
        return over
    merged: dict[str, Tree] = dict(base) if isinstance(base, dict) else {}
    for key, value in over.items():
        if is_null(value):
            merged.pop(key, None)
        else:
            below: Tree = merged.get(key, {})
            merged[key] = merge_trees(below, value, f"{path}.{key}" if path else key)
    return merged


def missed_deletions(base: Tree | None, over: Tree, above: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """Return the keys that a null in `over` would delete and that `base` does not have, each with its origin."""
    if not isinstance(over, dict):
        return {}
    missed: dict[tuple[str, ...], str] = {}
    for key, value in over.items():
        below = _below(base, key)
        if not is_null(value):
            missed |= missed_deletions(below, value, (*above, key))
        elif below is None:
            missed[(*above, key)] = first_origin(value)
    return missed


def _below(base: Tree | None, key: str) -> Tree | None:
    if isinstance(base, list):
        names = item_names(base)
        index = names.index(key) if key in names else int(key) if key.isdecimal() else len(base)
        return base[index] if index < len(base) else None
    return base.get(key) if isinstance(base, dict) else None


def _is_named(item: Tree, name: str) -> bool:
    """Return whether an item states its own name, so that a misspelt name never adds one."""
    return isinstance(item, dict) and item_names([item]) == [name]


def apply_set(tree: Tree, assignment: str) -> Tree:
    """Apply one `--set a.b=value`; the value is YAML, list items go by index or by name.

    Raises:
        RecipeError: No `=`, or the path leads nowhere.
    """
    keys, value = read_set(assignment)
    return _set(tree, keys, value, keys)


def read_set(assignment: str) -> tuple[list[str], Tree]:
    """Return the keys and the value of one `--set a.b=value`.

    Raises:
        RecipeError: No `=`, an empty key, or a value that is not YAML.
    """
    path, equals, text = assignment.partition("=")
    keys = [key.strip() for key in path.split(".")]
    if not equals or not all(keys):
        raise RecipeError(
            "--set takes a path and a value", seen=assignment, allowed="a.b=value", fix="--set phases.0.seq_len=512"
        )
    return keys, read_tree(text, "--set", with_lines=False) if text.strip() else Leaf(None, "--set")


def _set(tree: Tree, keys: list[str], value: Tree, whole: list[str]) -> Tree:
    if not keys:
        return merge_trees(tree, value, ".".join(whole)) if isinstance(value, dict) else value
    here, rest = ".".join(whole[: len(whole) - len(keys)]), keys[1:]
    if isinstance(tree, list):
        if not rest and _is_named(value, keys[0]) and keys[0] not in item_names(tree):
            return [*tree, value]
        index = _item_index(tree, keys[0], here)
        items = [*tree[:index], _set(tree[index], rest, value, whole), *tree[index + 1 :]]
        return [item for item in items if not is_null(item)]
    if isinstance(tree, Leaf) and tree.value is not None:
        raise RecipeError(
            f"--set {'.'.join(whole)} leads nowhere",
            seen=f"{here} is {tree.value!r} ({tree.origin})",
            fix=f"set '{here}' itself",
        )
    mapping: dict[str, Tree] = dict(tree) if isinstance(tree, dict) else {}
    below: Tree = mapping.get(keys[0], {})
    changed = _set(below, rest, value, whole)
    if is_null(changed):
        mapping.pop(keys[0], None)
    else:
        mapping[keys[0]] = changed
    return mapping


def _item_index(items: list[Tree], key: str, here: str) -> int:
    names = item_names(items)
    if key in names:
        return names.index(key)
    if key.isdecimal() and int(key) < len(items):
        return int(key)
    allowed = [str(index) for index in range(len(items))] + names
    raise RecipeError(
        f"'{here}' has no item '{key}'{nearest(key, allowed)}", seen=f"{here}.{key}", allowed=", ".join(allowed)
    )


def first_origin(tree: Tree) -> str:
    """Return the origin of a tree's first leaf; empty text if it has none."""
    if isinstance(tree, Leaf):
        return tree.origin
    values = list(tree.values()) if isinstance(tree, dict) else tree
    return next((origin for origin in map(first_origin, values) if origin), "")


def strip(tree: Tree, path: str = "", origins: dict[str, str] | None = None) -> object:
    """Return plain Python values; with `origins`, note each leaf's origin under its dotted path."""
    if isinstance(tree, Leaf):
        if origins is not None:
            origins[path] = tree.origin
        return tree.value
    prefix = f"{path}." if path else ""
    if isinstance(tree, dict):
        return {key: strip(value, f"{prefix}{key}", origins) for key, value in tree.items()}
    return [strip(value, f"{prefix}{index}", origins) for index, value in enumerate(tree)]
