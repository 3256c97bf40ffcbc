"""Labelled sets by name: those in the data folder, GLUE's, and descriptions in files."""

from __future__ import annotations

from pathlib import Path

from seqpair.errors import EvaluationError
from seqpair.evaluate.classification.local_sets import SETS
from seqpair.evaluate.finetune.glue import GLUE, glue_spec
from seqpair.evaluate.finetune.set_spec import labelled_set, load_spec
from seqpair.evaluate.finetune.sets import LabelledSet

GLUE_NAMES = tuple(f"glue_{name}" for name in GLUE)
_LOCAL = {one.name: one for one in SETS}


def find_set(name: str, data: Path) -> tuple[LabelledSet, int]:
    """Return a set, and the longest row that suits it.

    Args:
        name: A set of the data folder, `glue_<name>` (files of the data folder, else the hub), or a YAML description.
        data: The data folder.

    Raises:
        EvaluationError: There is no such set, or its rows cannot be read.
    """
    if name.endswith((".yaml", ".yml")):
        spec = load_spec(Path(name))
        return labelled_set(spec), spec.max_tokens
    if name in GLUE_NAMES:
        short = name.removeprefix("glue_")
        folder = data / "glue"
        spec = glue_spec(short, folder if (folder / short).is_dir() else None)
        return labelled_set(spec), spec.max_tokens
    if name not in _LOCAL:
        raise EvaluationError(
            "there is no labelled set of this name",
            seen=name,
            allowed=", ".join((*_LOCAL, *GLUE_NAMES)),
            fix="describe a set of your own in a file NAME.yaml (docs/finetuning.md)",
        )
    absent = [file for file in _LOCAL[name].inputs if not (data / file).exists()]
    if absent:
        raise EvaluationError(f"the set {name} is not in the data folder", seen=f"{data} has no {absent[0]}")
    return _LOCAL[name].read(data), _LOCAL[name].max_tokens
