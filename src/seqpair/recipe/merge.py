"""Merging recipes: `extends` chains, null deletion, named list items, `--set`.

Rules: mappings merge key by key; a list replaces a list; null deletes a key. A mapping over a list whose
items have names (`phases: {pretrain: {seq_len: 512}}`) merges into the items of those names.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from seqpair.errors import RecipeError
from seqpair.recipe.yaml_text import Leaf, Tree, read_tree


def nearest(word: str, allowed: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for the allowed word nearest to this one, or nothing.

    A word's initials count as near too: `lr` for `learning_rate`.
    """
    words = list(allowed)
    initials = "".join(part[:1] for part in word.split("_"))
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5) or [item for item in words if item == initials]
    return f" (did you mean '{close[0]}'?)" if close else ""


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
                raise RecipeError(
                    f"'{path}' has no item named '{key}'{nearest(key, names)}",
                    seen=f"{path}.{key} ({first_origin(value)})",
                    allowed=", ".join(names),
                    fix=f"use one of these names, or write the whole list under '{path}'",
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


def apply_set(tree: Tree, assignment: str) -> Tree:
    """Apply one `--set a.b=value`; the value is YAML, list items go by index or by name.

    Raises:
        RecipeError: No `=`, or the path leads nowhere.
    """
    path, equals, text = assignment.partition("=")
    keys = [key.strip() for key in path.split(".")]
    if not equals or not all(keys):
        raise RecipeError(
            "--set takes a path and a value", seen=assignment, allowed="a.b=value", fix="--set phases.0.seq_len=512"
        )
    value = read_tree(text, "--set", with_lines=False) if text.strip() else Leaf(None, "--set")
    return _set(tree, keys, value, keys)


def _set(tree: Tree, keys: list[str], value: Tree, whole: list[str]) -> Tree:
    if not keys:
        return merge_trees(tree, value, ".".join(whole)) if isinstance(value, dict) else value
    here, rest = ".".join(whole[: len(whole) - len(keys)]), keys[1:]
    if isinstance(tree, list):
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
