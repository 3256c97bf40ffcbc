"""Reading a recipe's YAML so that every value means what it looks like and knows its line.

Scalars: `3e-3` is a float, `1_000` the integer 1000, `1:15` the text "1:15", `no` the text "no" (a
yes-or-no key still takes it as false); `true`, `false`, `null` and `~` are what YAML 1.2 says.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode
from ruamel.yaml.tokens import TagToken

from seqpair.errors import RecipeError

_INTEGER = re.compile(r"^[-+]?[0-9][0-9_]*$")
_FLOAT = re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?$")
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
        RecipeError: A syntax error, a tab, a duplicate key, a tag, a key that is not text.
    """
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
            fix="indent with spaces, not tabs" if tab else "mend the line, or put the value in quotes",
        ) from error
    except YAMLError as error:
        raise RecipeError(f"{origin} is not YAML: {error}", fix="save the file as plain UTF-8 text") from error
    if node is None:
        return {}
    return _tree(node, origin, with_lines, ())


def _tree(node: Node, origin: str, with_lines: bool, above: tuple[int, ...]) -> Tree:
    if id(node) in above:
        raise _fault("an alias points to itself", origin, node, fix="write the value out")
    above = (*above, id(node))
    if isinstance(node, ScalarNode):
        value = plain_scalar(node.value) if node.style is None else node.value
        return Leaf(value, f"{origin}:{node.start_mark.line + 1}" if with_lines else origin)
    if not isinstance(node, MappingNode):
        return [_tree(item, origin, with_lines, above) for item in node.value]
    mapping: dict[str, Tree] = {}
    for key, value in node.value:
        if not isinstance(key, ScalarNode):
            raise _fault("a key must be text", origin, key, fix="write `key: value`")
        if key.value in mapping:
            raise _fault(f"the key '{key.value}' stands twice", origin, key, fix="delete one of the two")
        mapping[key.value] = _tree(value, origin, with_lines, above)
    return mapping


def _fault(what: str, origin: str, at: Any, *, fix: str) -> RecipeError:
    mark = at.start_mark
    return RecipeError(f"{origin}, line {mark.line + 1}, column {mark.column + 1}: {what}", fix=fix)
