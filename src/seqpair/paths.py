"""Where a study keeps things, so that nobody has to import what writes a file in order to find it.

<runs>/<study>/<member>/    plan.json, metrics.jsonl, ledger.jsonl, checkpoints/, soups/, export/, evaluation/
<runs>/<study>/             report/, sweeps/
"""

from __future__ import annotations

from pathlib import Path

from seqpair.recipe.plan import Plan
from seqpair.recipe.schema import Recipe

PLAN_FILE = "plan.json"
METRICS_FILE = "metrics.jsonl"
LEDGER_FILE = "ledger.jsonl"
DRIFT_FILE = "drift.json"
CHECKPOINTS_FOLDER = "checkpoints"
SOUPS_FOLDER = "soups"
EXPORT_FOLDER = "export"
EXPORT_RECORD = "seqpair_export.json"
EVALUATION_FOLDER = "evaluation"
REPORT_FOLDER = "report"
SWEEPS_FOLDER = "sweeps"


def study_folder(recipe: Recipe) -> Path:
    """Return the folder of a study: `<runs>/<study>`."""
    return Path(recipe.runs) / recipe.name


def run_folder(plan: Plan) -> Path:
    """Return the folder of a member's run: `<runs>/<study>/<member>`."""
    return Path(plan.runs) / plan.study / plan.member
