"""The GLUE sets: their columns, classes and metrics, on the hub or as files.

Their dev rows are reported, as the published figures are: the test rows have no labels. A folder of files holds the
hub's rows: `<name>/train.jsonl` and `<name>/validation.jsonl`, for MNLI `validation_matched.jsonl`.
"""

from __future__ import annotations

from pathlib import Path

from seqpair.evaluate.finetune.set_spec import SetSpec

HUB_NAME = "nyu-mll/glue"
_ENTAILMENT = ("entailment", "not_entailment")

GLUE: dict[str, SetSpec] = {
    spec.name: spec
    for spec in (
        SetSpec(name="cola", text="sentence", labels=("unacceptable", "acceptable"), metric="matthews"),
        SetSpec(name="sst2", text="sentence", labels=("negative", "positive")),
        SetSpec(name="mrpc", text="sentence1", pair="sentence2", labels=("not_equivalent", "equivalent"), metric="f1"),
        SetSpec(name="stsb", kind="number", text="sentence1", pair="sentence2"),
        SetSpec(name="qqp", text="question1", pair="question2", labels=("not_duplicate", "duplicate"), metric="f1"),
        SetSpec(name="mnli", text="premise", pair="hypothesis", labels=("entailment", "neutral", "contradiction")),
        SetSpec(name="qnli", text="question", pair="sentence", labels=_ENTAILMENT),
        SetSpec(name="rte", text="sentence1", pair="sentence2", labels=_ENTAILMENT),
    )
}
FROM_MNLI = ("rte", "mrpc", "stsb")
"""The sets that the published protocol tunes from a model tuned on MNLI."""


def glue_spec(name: str, folder: Path | None = None) -> SetSpec:
    """Return a set's description with its sources: files of a folder, or the hub.

    Args:
        name: GLUE's name, in small letters; the set is called `glue_<name>`.
        folder: What holds `<name>/train.jsonl`; `None` takes the hub.
    """
    dev = "validation_matched" if name == "mnli" else "validation"
    test = "validation_mismatched" if name == "mnli" else ""

    def source(split: str) -> str:
        return f"hub:{HUB_NAME}:{name}#{split}" if folder is None else str(folder / name / f"{split}.jsonl")

    given = {"name": f"glue_{name}", "train": source("train"), "dev": source(dev), "test": source(test) if test else ""}
    return GLUE[name].model_copy(update=given)
