"""What the verb `eval` prints: a line per result as it comes, and one table of all models at the end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seqpair.evaluate.results import TaskResult
    from seqpair.evaluate.runner import SuiteReport, TaskPlan

AT_CHANCE = "at chance"
BELOW_CHANCE = "below chance"
OWN_TEXT = "own text"  # the suite is empty in such a result
_CAPTION = "in brackets one standard error over the items"


def show_plans(name: str, folder: Path, plans: list[TaskPlan]) -> None:
    """Print what a run would do with one model."""
    for plan in plans:
        what = (
            f"skipped, {plan.skipped}" if plan.skipped else ("is there already" if plan.cached else "would be computed")
        )
        print(f"{name} {plan.task.name}: {what}")
    print(f"{name}: results in {folder}")


def show_report(report: SuiteReport) -> None:
    """Print the results of one model, a line each, and what was skipped."""
    from seqpair.evaluate.generative import average_of
    from seqpair.report.published import published_beside

    for result in report.results:
        _show_result(report.model, result, result.task in report.cached)
    average = average_of(report.results)
    if average:
        value, error, chance = average["value"], average["standard_error"], average["chance"]
        print(f"{report.model} {average['label']}: {value:.4f} +- {error:.4f}, chance {chance:.4f}")
    done = {result.task for result in report.results}, {result.suite for result in report.results}
    for line in published_beside(report.model, *done):
        print(f"{report.model} published: {line}")
    for skipped, reason in report.skipped.items():
        print(f"{report.model} {skipped}: skipped, {reason}")
    print(f"{report.model}: results in {report.folder}")


def _show_result(model: str, result: TaskResult, is_cached: bool) -> None:
    error = "" if result.standard_error is None else f" +- {result.standard_error:.4f}"
    chance = "" if result.chance is None else f", chance {result.chance:.4f}"
    limit = result.settings.get("limit")
    limited = f" (limit {limit})" if limit is not None else ""
    shots = f", {result.settings['shots']} shots" if result.settings.get("shots") else ""
    again = ", from before" if is_cached else ""
    value = f"{result.metric} {result.value:.4f}{error}, n {result.n}{limited}"
    print(f"{model} {result.task}: {value}{chance}{shots}{again}")
    for name, figure in result.figures.items():
        if name == "truncated_rows" and figure:
            print(f"    {figure:.0f} contexts were cut on the left")
        if name == "rows_with_fewer_shots" and figure:
            print(f"    {figure:.0f} rows had no room for all shots")
    if result.note and result.suite == "retrieval":
        print(f"    {result.note}")


def show_table(reports: list[SuiteReport]) -> None:
    """Print the results of all models side by side: a row per task, with the chance level.

    A result whose 95 % interval includes chance says so: it is no evidence that the model can do the task. The
    interval is over the items only.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    rows: dict[str, dict[int, TaskResult]] = {}
    for column, report in enumerate(reports):
        for result in report.results:
            rows.setdefault(result.task, {})[column] = result
    if not rows:
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, caption=_CAPTION, caption_justify="left")
    table.add_column("task", no_wrap=True)
    table.add_column("chance", justify="right", no_wrap=True)
    for name in _short_names([report.model for report in reports]):
        table.add_column(name, justify="right", overflow="fold")
    suite: str | None = None
    for task, cells in rows.items():
        first = next(iter(cells.values()))
        if first.suite != suite:
            suite = first.suite
            table.add_section()
            table.add_row(f"[bold]{suite or OWN_TEXT}[/bold]")
        sizes = sorted({cell.n for cell in cells.values()})
        n = " or ".join(f"{size:,}" for size in sizes)
        table.add_row(
            f"{task}\n[dim]{first.metric}, n {n}[/dim]",
            _only({None if cell.chance is None else f"{cell.chance:.3f}" for cell in cells.values()}),
            *(_cell(cells.get(column)) for column in range(len(reports))),
        )
    Console(highlight=False).print(table)


def _only(values: set[str | None]) -> str:
    """Return the one value; a word where models have different ones."""
    return "differs" if len(values) > 1 else (next(iter(values)) or "")


def _cell(result: TaskResult | None) -> str:
    if result is None:
        return "-"
    error = "" if result.standard_error is None else f" ({result.standard_error:.3f})"
    text = f"{result.value:.3f}{error}"
    word = standing(result)
    return f"{text}\n[dim]{word}[/dim]" if word else text


def standing(result: TaskResult) -> str:
    """Return whether a result is at chance or on its wrong side, by its 95 % interval; empty if better or unknown."""
    from seqpair.compare.values import Interval

    if result.chance is None or result.standard_error is None:
        return ""
    if Interval(result.value, *result.interval).contains(result.chance):
        return AT_CHANCE
    if result.is_lean:
        return ""
    is_better = (result.value > result.chance) == result.higher_is_better
    return "" if is_better else BELOW_CHANCE


def _short_names(names: list[str]) -> list[str]:
    """Return the names without the path that all share, nor an ending `/export` that all have."""
    parts = [name.strip("/").split("/") for name in names]
    if all(len(part) > 1 and part[-1] == "export" for part in parts):
        parts = [part[:-1] for part in parts]
    while len(parts) > 1 and all(len(part) > 1 for part in parts) and len({part[0] for part in parts}) == 1:
        parts = [part[1:] for part in parts]
    return ["/".join(part) for part in parts]
