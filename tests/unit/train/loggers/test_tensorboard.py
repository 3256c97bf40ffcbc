"""TensorBoard's files: readers take them in the order of their names, so a later process's name sorts later."""

import time

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from seqpair.train.loggers.protocol import RunIdentity
from seqpair.train.loggers.tensorboard import FOLDER, TensorBoardLogger


def logged(folder, process, first_step, steps, monkeypatch):
    """Log a value a step as a process of that number would."""
    monkeypatch.setattr("os.getpid", lambda: process)
    logger = TensorBoardLogger(
        RunIdentity(run_id="r", study="s", member="encoder", folder=folder, first_step=first_step, config={})
    )
    for step in steps:
        logger.log({"train/loss": float(process)}, step)
    logger.close()


def test_a_process_that_follows_within_a_second_sorts_later(tmp_path, monkeypatch):
    time.sleep(1.0 - time.time() % 1.0)  # so that both begin in one second
    logged(tmp_path, 90, -1, range(1, 10), monkeypatch)
    logged(tmp_path, 10, 6, range(7, 12), monkeypatch)
    accumulator = EventAccumulator(str(tmp_path / FOLDER), size_guidance={"scalars": 0})
    accumulator.Reload()
    points = [(event.step, event.value) for event in accumulator.Scalars("train/loss")]
    assert points == [(step, 90.0) for step in range(1, 7)] + [(step, 10.0) for step in range(7, 12)]
