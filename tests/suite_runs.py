"""Suites run on one model, for the tests of tasks."""

from seqpair.evaluate.runner import run_models


def run_tasks(place, tasks, context, folder, **options):
    """Return the report of one model's tasks."""
    return next(run_models([place], tasks, context, [folder], **options))
