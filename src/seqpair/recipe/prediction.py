"""How long a plan would take on some devices, and whether it fits them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from seqpair.errors import RecipeError
from seqpair.recipe.cost import SPECIALS_PER_SEQUENCE, plan_cost
from seqpair.recipe.plan import Plan
from seqpair.recipe.rates import DEVICES, expected_rate

TIME_FORMULA = "FLOPs of the phase / (count x FLOPs a second of one device); communication is not counted"


class PhaseTime(BaseModel):
    """One phase's time.

    Attributes:
        name: The phase.
        hours: On all devices together.
        tokens_per_second: Content tokens a second, on all devices together.
        measured: Whether the rate was measured on such a device, with this size and direction.
        source: Where the rate comes from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    hours: float
    tokens_per_second: float
    measured: bool
    source: str


class Prediction(BaseModel):
    """A plan on some devices.

    Attributes:
        device, count: Which, and how many.
        hours: All phases.
        device_hours: The same, by devices.
        phases: Each phase's time.
        memory_bytes: Rough peak memory of one device, without sharding.
        device_memory_bytes: What one has; null for a CPU.
        measured: Whether all rates were measured.
        formula: How hours are made.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    count: int
    hours: float
    device_hours: float
    phases: tuple[PhaseTime, ...]
    memory_bytes: float
    device_memory_bytes: float | None
    measured: bool
    formula: str

    @property
    def fits(self) -> bool:
        """Return whether one device has the memory, as far as that is known."""
        return self.device_memory_bytes is None or self.memory_bytes <= self.device_memory_bytes


def predict(plan: Plan, device: str, count: int = 1) -> Prediction:
    """Return a plan's time and memory on devices of one kind.

    Args:
        plan: The plan.
        device: A name in `DEVICES`.
        count: How many.

    Raises:
        RecipeError: There is no such device, fewer than one, or several CPUs.
    """
    if device not in DEVICES:
        raise RecipeError("this device is not in the table", seen=repr(device), allowed=", ".join(DEVICES))
    if count < 1 or (device == "cpu" and count > 1):
        raise RecipeError("this count makes no prediction", seen=f"{count} x {device}", allowed="1 or more; 1 for cpu")
    phases = []
    whole = plan_cost(plan)
    for phase, cost in zip(plan.phases, whole.phases, strict=True):
        direction = phase.objective_of(phase.steps - 1).direction
        rate = expected_rate(device, plan.size, direction, phase.seq_len, plan.runtime.precision)
        flops = cost.flops
        if rate.by_parameters:
            flops = 6.0 * whole.parameters * phase.positions * (phase.mean_tokens + SPECIALS_PER_SEQUENCE)
        seconds = flops / (rate.flops_per_second * count)
        phases.append(
            PhaseTime(
                name=phase.name,
                hours=seconds / 3600,
                tokens_per_second=phase.positions * phase.mean_tokens / seconds,
                measured=rate.measured,
                source=rate.source,
            )
        )
    hours = sum(phase.hours for phase in phases)
    return Prediction(
        device=device,
        count=count,
        hours=hours,
        device_hours=hours * count,
        phases=tuple(phases),
        memory_bytes=whole.memory_bytes,
        device_memory_bytes=DEVICES[device].memory_bytes,
        measured=all(phase.measured for phase in phases),
        formula=TIME_FORMULA,
    )
