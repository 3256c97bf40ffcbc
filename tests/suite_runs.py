"""Suites run on one model, and a data folder with a few rows of each set, for the tests of tasks."""

import json
from pathlib import Path

from seqpair.evaluate.runner import run_models

QUESTIONS = [
    {"query": f"Question: how many of {n}?", "choices": ["one", "two or more", "x"], "gold": n % 3} for n in range(5)
]
PARTIAL = [{"context_options": ["the cat", "the dog"], "continuation": f"runs {n}.", "gold": n % 2} for n in range(4)]
FILES = {
    "arc_challenge": QUESTIONS,
    "hellaswag_val_subset": QUESTIONS,
    "openbook_qa": QUESTIONS,
    "piqa": [row | {"query": row["query"] + "\n"} for row in QUESTIONS],
    "lambada_openai": [{"context": "a river and a", "continuation": "stone"}, {"context": "so", "continuation": "it"}],
    "winogrande": PARTIAL,
    "winograd_wsc": PARTIAL,
    "triviaqa_sm_sub": [{"context": "Question: who?\nAnswer:", "answer": "Nobody", "aliases": ["No one", "Nobody"]}],
    "sciq": [
        {"support": " Wet.", "question": "Is it wet?", "correct_answer": "yes"}
        | {f"distractor{n}": f"no {n}" for n in (1, 2, 3)}
    ],
    "social_iqa": [
        {"context": "He ran.", "question": "Why?", "answerA": "a", "answerB": "b", "answerC": "c", "label": "2"}
    ],
}


def run_tasks(place, tasks, context, folder, **options):
    """Return the report of one model's tasks."""
    return next(run_models([place], tasks, context, [folder], **options))


def write_rows(path: Path, rows: list[dict]) -> None:
    """Write rows as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_suite_data(folder: Path) -> Path:
    """Write every file of the generative suite and two sets of BLiMP; return the folder."""
    for name, rows in FILES.items():
        write_rows(folder / "generative" / f"{name}.jsonl", rows)
    for uid, field in (("set_one", "syntax_semantics"), ("set_two", "syntax/semantics")):
        pairs = [
            {"sentence_good": f"The cats {n} run.", "sentence_bad": f"The cats {n} runs.", "UID": uid, "pairID": str(n)}
            | {"field": field, "linguistics_term": "agreement"}
            for n in range(3)
        ]
        write_rows(folder / "blimp" / f"{uid}.jsonl", pairs)
    return folder
