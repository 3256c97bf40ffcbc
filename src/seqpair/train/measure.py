"""The speed of real training steps: tokens a second, share of the peak, where the time goes, what limits it.

Two passes over consecutive steps: one undisturbed, which gives the tokens a second, and one with hooks, which
gives the split (on a GPU the hooks wait for the device, so this pass is slower). Under several ranks a third
pass leaves out the exchange of gradients; what it saves is the communication that nothing hides.
"""

from __future__ import annotations

import contextlib
import itertools
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from seqpair.distributed.hardware import peak_rate, synchronize
from seqpair.distributed.world import no_sync
from seqpair.recipe.cost import flops_per_token
from seqpair.text import Progress
from seqpair.train.assembly import Run
from seqpair.train.feed import StepFeed
from seqpair.train.loop import step_gradients
from seqpair.train.step import StepWork

WARM_UP_STEPS = 2
MFU_FORMULA = "FLOPs a token (recipe/cost.py) x tokens/s with specials / (ranks x peak)"


@dataclass(frozen=True)
class TimeSplit:
    """Median seconds of a step's parts; `data` is reading, corrupting and assembling, or waiting for it."""

    data: float
    forward: float
    backward: float
    optimizer: float
    communication: float

    @property
    def total(self) -> float:
        """Return the parts' sum."""
        return self.data + self.forward + self.backward + self.optimizer + self.communication


@dataclass(frozen=True)
class SpeedMeasurement:
    """What was measured.

    Attributes:
        steps: Steps of the undisturbed pass.
        step_seconds: Its median step.
        slowest_seconds, fastest_seconds: Its extremes.
        step_tokens: Mean content tokens of a step, over all ranks.
        tokens_per_second: Content tokens a second, over all ranks: the sum by the sum.
        flops_per_token: Training FLOPs of one token, specials counted as tokens.
        flops_per_second: Counted FLOPs a second of one rank.
        peak_flops_per_second: What they are held against.
        peak_source: Where that comes from.
        mfu: Their quotient.
        split: Where the time of a step goes.
        peak_memory_bytes: Highest memory in use: of the device, or of the process on a CPU.
        added_memory_bytes: By how much that is above the level before the first step.
        graphs: Graphs that were compiled, the warm-up's included; 0 where the model is not compiled.
        limit: What limits the speed, in words.
    """

    steps: int
    step_seconds: float
    slowest_seconds: float
    fastest_seconds: float
    step_tokens: float
    tokens_per_second: float
    flops_per_token: float
    flops_per_second: float
    peak_flops_per_second: float
    peak_source: str
    mfu: float
    split: TimeSplit
    peak_memory_bytes: int
    added_memory_bytes: int
    graphs: int
    limit: str

    def as_json(self) -> dict[str, Any]:
        """Return the values as JSON."""
        return {**asdict(self), "mfu_formula": MFU_FORMULA}


class _Steps:
    """The steps of a run's first phase, one after another."""

    def __init__(self, run: Run) -> None:
        self.run, self.phase = run, run.plan.phases[0]
        self.feed = StepFeed(run, ((self.phase, step) for step in itertools.cycle(range(self.phase.steps))))
        self.content_tokens = self.all_tokens = 0

    def read(self) -> StepWork:
        """Return the next step's work; after the phase's last step comes its first again."""
        work = self.feed.take()
        self.content_tokens += work.record.content_tokens
        self.all_tokens += work.tokens
        return work

    def go(self) -> float:
        """Run one whole step as the loop does; return its seconds."""
        synchronize(self.run.world.device)
        started = time.perf_counter()
        self.update(self.read())
        return time.perf_counter() - started

    def update(self, work: StepWork, before_optimizer: Callable[[], None] = lambda: None) -> None:
        """Make the gradients of a step and take the optimiser's step."""
        optimizer = self.run.optimizer
        step_gradients(self.run, self.phase, work)
        before_optimizer()
        optimizer.set_lr_frac(self.phase.lr_frac(work.record.step))
        optimizer.step().read()
        optimizer.zero_grad(set_to_none=True)


class _Hooks:
    """Seconds spent in forward and backward of a step's microbatches."""

    def __init__(self, run: Run) -> None:
        self.forward = self.backward = 0.0
        self._device = run.world.device
        self._began = self._forward_ended = self._backward_ended = 0.0
        self._handles: list[Any] = [
            run.module.register_forward_pre_hook(lambda *_: self._before_forward()),
            run.module.register_forward_hook(lambda *_: self._after_forward()),
        ]
        for parameter in run.model.parameters():
            self._handles.append(parameter.register_post_accumulate_grad_hook(lambda _: self._in_backward()))

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def start(self) -> None:
        """Forget what was counted before this step."""
        self.forward = self.backward = 0.0
        self._forward_ended = self._backward_ended = 0.0

    def close(self) -> None:
        """Count the backward pass of the microbatch that has just ended."""
        if self._backward_ended > self._forward_ended > 0.0:
            self.backward += self._backward_ended - self._forward_ended
        self._forward_ended = self._backward_ended = 0.0

    def _now(self) -> float:
        synchronize(self._device)
        return time.perf_counter()

    def _before_forward(self) -> None:
        self.close()
        self._began = self._now()

    def _after_forward(self) -> None:
        self._forward_ended = self._now()
        self.forward += self._forward_ended - self._began

    def _in_backward(self) -> None:
        self._backward_ended = self._now()


def measure_training(run: Run, seconds: float, tokens: int | None = None) -> SpeedMeasurement:
    """Measure a run that has just been assembled; it is trained on the way.

    Args:
        run: The run; its first phase's steps are run, from the first on.
        seconds: Stop after this time (at least three steps), ...
        tokens: ... or after this many content tokens, if given.
    """
    steps = _Steps(run)
    with contextlib.closing(steps.feed):
        return _measure(run, steps, seconds, tokens)


def _measure(run: Run, steps: _Steps, seconds: float, tokens: int | None) -> SpeedMeasurement:
    device, world, phase = run.world.device, run.world, run.plan.phases[0]
    before = _reset_memory(device)
    for _ in range(WARM_UP_STEPS):
        steps.go()
    steps.content_tokens = steps.all_tokens = 0
    took: list[float] = []
    progress = Progress("bench", seconds if tokens is None else tokens, "s" if tokens is None else "tokens")
    while not _done(run, took, seconds, tokens, steps.content_tokens):
        took.append(steps.go())
        progress.update(sum(took) if tokens is None else steps.content_tokens)
    content, every = steps.content_tokens, steps.all_tokens
    peak_memory = _peak_memory(device)
    split = _split_steps(run, steps, max(3, min(10, len(took) // 2)))
    peak, source = peak_rate(device, bf16=run.plan.runtime.precision == "bf16")
    flops = flops_per_token(run.plan.model, phase)
    rate = flops * every / sum(took) / world.world_size
    mfu = rate / peak
    return SpeedMeasurement(
        steps=len(took),
        step_seconds=statistics.median(took),
        slowest_seconds=max(took),
        fastest_seconds=min(took),
        step_tokens=content / len(took),
        tokens_per_second=content / sum(took),
        flops_per_token=flops,
        flops_per_second=rate,
        peak_flops_per_second=peak,
        peak_source=source,
        mfu=mfu,
        split=split,
        peak_memory_bytes=peak_memory,
        added_memory_bytes=max(0, peak_memory - before),
        graphs=0 if run.compiled is None else run.compiled.graphs,
        limit=limit_words(split, mfu, device.type),
    )


def _done(run: Run, took: list[float], seconds: float, tokens: int | None, content: int) -> bool:
    """Return whether all ranks have measured enough; they agree, since a step needs all of them."""
    enough = len(took) >= 3 and (sum(took) >= seconds if tokens is None else content >= tokens)
    return run.world.all_reduce_sum([float(enough)])[0] > 0


def _split_steps(run: Run, steps: _Steps, count: int) -> TimeSplit:
    """Run some steps with hooks and return the medians of their parts."""
    parts: dict[str, list[float]] = {name: [] for name in ("data", "forward", "backward", "optimizer")}
    hooks = _Hooks(run)
    device = run.world.device
    for _ in range(count):
        synchronize(device)
        hooks.start()
        marks = [time.perf_counter()]

        def mark(marks: list[float] = marks) -> None:
            hooks.close()
            synchronize(device)
            marks.append(time.perf_counter())

        steps.update(steps.read(), mark)
        marks.append(time.perf_counter())
        gradients = marks[1] - marks[0]
        parts["forward"].append(hooks.forward)
        parts["backward"].append(hooks.backward)
        parts["data"].append(gradients - hooks.forward - hooks.backward)
        parts["optimizer"].append(marks[2] - marks[1])
    hooks.remove()
    medians = {name: statistics.median(values) for name, values in parts.items()}
    communication = 0.0
    if run.world.world_size > 1:
        communication = _exposed_communication(run, steps, count)
        medians["backward"] = max(0.0, medians["backward"] - communication)
    return TimeSplit(**medians, communication=communication)


def _exposed_communication(run: Run, steps: _Steps, count: int) -> float:
    """Return the seconds a step takes longer because gradients are exchanged; steps with and without alternate."""
    saved = []
    for _ in range(count):
        whole = steps.go()
        with no_sync(run.module):
            saved.append(whole - steps.go())
    return max(0.0, statistics.median(saved))


def limit_words(split: TimeSplit, mfu: float, device: str) -> str:
    """Return what limits a step, from its parts and the share of the peak.

    Args:
        split: The parts.
        mfu: Share of the peak FLOPs.
        device: `cpu`, `cuda` or `mps`.
    """
    shares = {name: seconds / split.total for name, seconds in asdict(split).items()}
    if shares["data"] > 0.15:
        return f"the data: {shares['data']:.0%} of a step is reading, corrupting and assembling"
    if shares["communication"] > 0.15:
        return f"the network: {shares['communication']:.0%} of a step waits for gradients; larger batches spread it"
    if shares["optimizer"] > 0.25:
        return f"the optimiser: {shares['optimizer']:.0%} of a step; a larger batch spreads it over more tokens"
    if mfu > 0.5:
        return f"arithmetic: matrix products and attention at {mfu:.0%} of the peak"
    other = (
        "kernel launches, small matrices and memory traffic; larger microbatches, bf16 and wider models use more"
        if device == "cuda"
        else "memory traffic and element-wise work between the matrix products, which are small at this width"
    )
    return f"not arithmetic (MFU {mfu:.0%}): {other}"


def _reset_memory(device: torch.device) -> int:
    """Begin a new peak and return the bytes in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    with contextlib.suppress(OSError):  # Linux only: 5 resets the peak of the resident set
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status_bytes("VmRSS") or _peak_memory(device)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return _status_bytes("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status_bytes(key: str) -> int | None:
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    for line in status.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return None
