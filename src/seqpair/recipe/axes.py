"""The axes of a sweep: what is varied, in which values, and which leaves of a plan that may move.

A value becomes `--set` assignments, so a point of a sweep is an ordinary recipe with a few keys set.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seqpair.errors import RecipeError, SeqpairError
from seqpair.recipe.diff import Difference
from seqpair.recipe.schema import Recipe
from seqpair.recipe.tree import Leaf, read_set, read_tree, strip
from seqpair.text import parse_count

SEED_KEY = "seed"
_LABEL = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,199}$")
MOST_POINTS = 1000
"""Each point is resolved and compared before the first one trains."""
_NAMED_BY_THE_SWEEP = ("name", "runs")
_SOURCE = "--over"


@dataclass(frozen=True)
class AxisValue:
    """One value of an axis.

    Attributes:
        text: The value as it is shown: `0.002`, `8k`, `prose-heavy`.
        slug: What it is called in a folder's name.
        number: Its place on a numeric axis; None where it is no number.
        assignments: The `--set` assignments that make it.
    """

    text: str
    slug: str
    number: float | None
    assignments: tuple[str, ...]


@dataclass(frozen=True)
class Axis:
    """One thing that is varied.

    Attributes:
        name: Its short name, part of folder names: `lr`, or the stem of a file of variants.
        keys: The recipe's keys that its values set, as dotted paths.
        values: Its values: numbers ascending, others as they were given.
    """

    name: str
    keys: tuple[str, ...]
    values: tuple[AxisValue, ...]

    @property
    def is_seed(self) -> bool:
        """Return whether it repeats everything with other seeds rather than varying the recipe."""
        return self.keys == (SEED_KEY,) and self.is_numeric

    @property
    def is_numeric(self) -> bool:
        """Return whether all values are numbers."""
        return all(value.number is not None for value in self.values)


def read_axes(over: Sequence[str], variants: Sequence[str] = ()) -> list[Axis]:
    """Return the axes that a command names.

    Args:
        over: Texts `KEY=VALUE,VALUE,...`; the values are YAML scalars.
        variants: Paths of YAML files that map a variant's name to the keys it changes; to none for the recipe itself.

    Raises:
        RecipeError: Nothing is varied, a text or a file is not of this form, a value stands alone or twice, a
            key cannot be varied, or two axes vary one key.
    """
    axes = [_axis_of(text) for text in over] + [_axis_of_file(Path(path)) for path in variants]
    if not axes:
        raise RecipeError(
            "a sweep needs something to vary",
            allowed="--over KEY=VALUE,VALUE,... and --variants FILE, each as often as you like",
            fix="--over optimizer.lr=1e-3,2e-3,4e-3",
        )
    points = math.prod(len(axis.values) for axis in axes)
    if points > MOST_POINTS:
        raise RecipeError(
            "a sweep has too many points",
            seen=f"{' x '.join(str(len(axis.values)) for axis in axes)} = {points:,}",
            allowed=f"at most {MOST_POINTS:,}",
            fix="vary fewer keys or values, or split it into several sweeps",
        )
    names = [axis.name for axis in axes]
    if len(set(names)) < len(names):  # two keys with one last part: their whole paths tell them apart
        axes = [
            Axis(axis.keys[0].replace(".", "-"), axis.keys, axis.values) if names.count(axis.name) > 1 else axis
            for axis in axes
        ]
    for index, axis in enumerate(axes):
        for other in axes[index + 1 :]:
            shared = [key for key in axis.keys if any(_overlap(key, one) for one in other.keys)]
            if shared or axis.name == other.name:
                raise RecipeError(
                    "two axes of a sweep vary the same key",
                    seen=", ".join(shared) or axis.name,
                    fix="give all its values to one --over, or put what belongs together into one file of variants",
                )
    return axes


def require_not_set(axes: Sequence[Axis], overrides: Sequence[str]) -> None:
    """Check that no `--set` has a key that an axis varies: one of the two would have no effect.

    Raises:
        RecipeError: One has.
    """
    for assignment in overrides:
        key = ".".join(read_set(assignment)[0])
        if any(key == swept or key.startswith(f"{swept}.") for axis in axes for swept in axis.keys):
            raise RecipeError("a key is both set and swept", seen=assignment, fix="leave this --set out")


def require_label(name: str, what: str) -> None:
    """Check that a name can be a folder's name.

    Raises:
        RecipeError: It cannot.
    """
    if not _LABEL.match(name):
        raise RecipeError(
            f"{what} cannot name a folder",
            seen=name or "nothing",
            allowed="up to 200 letters, digits, - and _",
            fix="choose another name",
        )


def _overlap(one: str, other: str) -> bool:
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _axis_of(text: str) -> Axis:
    key, equals, listed = text.partition("=")
    key = key.strip()
    if not equals or not all(part.strip() for part in key.split(".")):
        raise RecipeError(
            "--over takes a key and its values",
            seen=text,
            allowed="a.b=value,value",
            fix="--over optimizer.lr=1e-3,2e-3",
        )
    _require_variable(key)
    if "@" in listed:
        raise RecipeError(
            "--over takes values, not files", seen=text, fix="name the changes in one YAML file and use --variants FILE"
        )
    tree = read_tree(f"[{listed}]", _SOURCE, with_lines=False)
    items = tree if isinstance(tree, list) else []
    values = []
    for item in items:
        if not isinstance(item, Leaf) or item.value is None:
            raise RecipeError(
                "a value of --over is a number or a word",
                seen=f"{key}: {'nothing' if isinstance(item, Leaf) else json.dumps(strip(item))}",
                fix="give changes of several keys, or a whole section, a name each in a file, and use --variants FILE",
            )
        values.append(_scalar(key, item.value))
    _require_several(f"--over {key}", [value.slug for value in values])
    axis = Axis(key.rsplit(".", 1)[-1], (key,), tuple(values))
    return Axis(axis.name, axis.keys, tuple(sorted(values, key=_number_of))) if axis.is_numeric else axis


def _scalar(key: str, value: object) -> AxisValue:
    text = f"{value:g}" if isinstance(value, float) else json.dumps(value) if isinstance(value, bool) else str(value)
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", text.replace(".", "p").replace("+", "")).strip("-") or "empty"
    return AxisValue(text, slug, _as_number(value), (f"{key}={json.dumps(value)}",))


def _as_number(value: object) -> float | None:
    """Return a number's value; a count such as `8k` is one too."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value)
    try:
        return float(parse_count(str(value)))
    except SeqpairError:
        return None


def _number_of(value: AxisValue) -> float:
    assert value.number is not None, "asked of numeric axes only"
    return value.number


def _axis_of_file(path: Path) -> Axis:
    if path.exists() and not path.is_file():
        raise RecipeError("variants are read from a file", seen=path, fix="write them to a file")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            "the file of variants cannot be read",
            seen=f"{path}: {error}",
            fix="check the spelling, and save it as UTF-8",
        ) from error
    origin = f"variants {path.name}"
    tree = read_tree(text, origin)
    form = "each variant's name and the keys it changes, such as `slow: {optimizer: {lr: 1e-3}}`; `{}` for none"
    if not isinstance(tree, dict) or not all(isinstance(change, dict) for change in tree.values()):
        raise RecipeError(f"{origin} does not name variants", seen=str(path), allowed=form)
    _require_several(origin, list(tree))
    require_label(path.stem, "the name of a file of variants, which names the axis,")
    values, keys = [], dict[str, None]()
    for name, change in tree.items():
        require_label(name, f"a variant's name in {origin}")
        plain = strip(change)
        assert isinstance(plain, dict), "checked above"
        for key in _leaf_keys(plain) if plain else ():
            _require_variable(key)
            keys[key] = None
        assignments = tuple(f"{key}={json.dumps(value)}" for key, value in plain.items())
        values.append(AxisValue(name, name, None, assignments))
    return Axis(path.stem, tuple(keys), tuple(values))


def _leaf_keys(value: object, path: str = "") -> list[str]:
    if isinstance(value, dict) and value:
        return [key for part, below in value.items() for key in _leaf_keys(below, f"{path}.{part}".lstrip("."))]
    return [path]


def _require_several(what: str, slugs: Sequence[str]) -> None:
    """Check that there are two values or more, all different.

    Raises:
        RecipeError: There are not.
    """
    twice = sorted(slug for slug, count in Counter(slugs).items() if count > 1)
    if twice:
        raise RecipeError(f"{what} has a value that stands twice", seen=", ".join(twice), fix="delete one of the two")
    if len(slugs) < 2:
        raise RecipeError(
            f"{what} has {len(slugs)} value{'s' if not slugs else ''}; a sweep needs two or more",
            seen=", ".join(slugs) or "nothing",
            fix="add values, or use `--set` for a key that does not vary",
        )


def _require_variable(key: str) -> None:
    """Check that a key can be varied in one sweep.

    Raises:
        RecipeError: It names the runs, or changes the data that all points share.
    """
    top = key.split(".", 1)[0]
    if top in _NAMED_BY_THE_SWEEP:
        raise RecipeError("a sweep gives its runs their names and folders itself", seen=key, fix="use --set for it")
    if top == "data":
        raise RecipeError(
            "a sweep does not vary the data: all its points read the same stores",
            seen=key,
            allowed="what a phase reads of them varies with phases.<name>.mixture",
            fix="losses of other tokenizers or held-out texts cannot be compared: write a recipe for each, with a "
            "name of its own, and look at their evaluations with `seqpair report`",
        )


_PLACE = ("study", "runs")
"""Leaves that say where a run lies; every point of a sweep has its own."""

_FOLLOWS = ("start.plan_digest",)
"""A member that starts from another one says which plan that one had."""

_COUNTS = ("mean_tokens", "steps", "positions", "batch_stages", "checkpoint_steps", "held_out_steps", "objectives")
"""What a phase's data, batch and budget come to, in steps."""

_PHASE_REACH: dict[str, tuple[str, ...]] = {
    "mixture": _COUNTS,
    "seq_len": _COUNTS,
    "batch": _COUNTS,
    "budget_tokens": _COUNTS,
}
_BUDGET_REACH = ("budget_tokens", "lr.warmup_tokens", "lr.decay_tokens", *_COUNTS)


def plan_leaves_of(key: str, recipe: Recipe) -> list[str]:
    """Return the plan leaves, or sections of them, that a recipe's key may move.

    Args:
        key: A dotted path of the recipe; phases by name or index.
        recipe: A recipe with this key, for the names of its phases.
    """
    parts = key.split(".")
    names = [phase.name for phase in recipe.phases]
    if parts[0] == "budget":
        return [f"phases[{name}].{leaf}" for name in names for leaf in _BUDGET_REACH] + ["keep.every_tokens"]
    if parts[0] == "size":
        return ["size", "model.shape"]
    if parts[0] == "members":
        moved = ("objectives", "mask_frac")
        return [f"phases[{name}].{leaf}" for name in names for leaf in moved] + ["start", "derived"]
    if parts[0] == "phases" and len(parts) > 2:
        index = int(parts[1]) if parts[1].isdecimal() else -1
        name = names[index] if 0 <= index < len(names) else parts[1]
        follows = _PHASE_REACH.get(parts[2], ())
        own = parts[2] if parts[2] in _PHASE_REACH else ".".join(parts[2:])
        shares_budget = recipe.budget is not None and parts[2] == "budget_tokens"
        scaled = [f"phases[{other}].{leaf}" for other in names for leaf in _BUDGET_REACH] if shares_budget else []
        return [f"phases[{name}].{leaf}" for leaf in (own, *follows)] + scaled
    return [key]


def require_reached(differences: Sequence[Difference], keys: Sequence[str], recipe: Recipe, point: str) -> None:
    """Check that a point's plan differs from the recipe's own in nothing but what the swept keys may move.

    Args:
        differences: The recipe's own plan against the point's, of one member.
        keys: The swept keys.
        recipe: The recipe.
        point: The point's name, for the message.

    Raises:
        RecipeError: Something else differs.
    """
    allowed = [*_PLACE, *_FOLLOWS, *(leaf for key in keys for leaf in plan_leaves_of(key, recipe))]
    wrong = [item for item in differences if not any(_within(item.path, leaf) for leaf in allowed)]
    if wrong:
        lines = "\n    ".join(f"{item.path}: {item.a} against {item.b}" for item in wrong)
        raise RecipeError(
            f"the point {point} differs from the recipe in more than what is swept",
            seen=f"{len(wrong)} other differences:\n    {lines}",
            allowed=", ".join(leaf for leaf in allowed if leaf not in _PLACE),
            fix="vary a key that moves nothing else, or write recipes of their own",
        )


def _within(path: str, leaf: str) -> bool:
    return re.match(re.escape(leaf) + r"(?:$|[.\[])", path) is not None
