"""The processes of one run, as torchrun's environment variables describe them, and a module wrapped for them.

One process needs no process group; nothing is pickled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.distributed_c10d import _set_pg_timeout
from torch.nn.parallel import DistributedDataParallel

from seqpair.distributed.heartbeat import Heartbeat
from seqpair.errors import SeqpairError, TrainingError

_DEVICE_NAMES = ("auto", "cpu", "cuda", "mps")
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
PATIENCE = 5
"""How many times longer the ranks wait where one of them may compile, measure or write while the others do nothing."""


@dataclass(frozen=True)
class World:
    """One process among all that train together; as a context manager it leaves the others at the end.

    Attributes:
        rank: This process's number, 0 to world_size - 1.
        world_size: How many processes there are; with 1 there is no process group and every exchange
            returns what it was given.
        local_rank: This process's number on its machine, and its CUDA device's.
        device: Where its tensors live.
        backend: `gloo`, `nccl`, or `None` for a single process.
        timeout_seconds: How long one exchange may take before the others count as lost.
        heartbeat: What this rank tells the others of itself; `None` for a single process.
        ranks_per_machine: How many of the processes run on this machine.
    """

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    backend: str | None
    timeout_seconds: float = 600.0
    heartbeat: Heartbeat | None = field(default=None, compare=False)
    ranks_per_machine: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which alone writes files and messages."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every rank is here.

        Raises:
            TrainingError: Another rank is gone or did not come in time.
        """
        self.all_reduce_sum([0.0])

    def all_reduce_sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums over all ranks, the same on each; float64, so whole numbers are exact to 2**53.

        Raises:
            TrainingError: Another rank is gone or did not come in time.
        """
        if self.world_size == 1:
            return [float(value) for value in values]
        return [float(value) for value in self._summed(torch.tensor(values, dtype=torch.float64)).tolist()]

    def all_reduce_integers(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the sums over all ranks of each of (n,) values, the same on each; the array may be overwritten.

        Raises:
            TrainingError: Another rank is gone or did not come in time.
        """
        return values if self.world_size == 1 else self._summed(torch.from_numpy(values)).numpy()

    def _summed(self, values: Tensor) -> Tensor:
        sums = values.to(self.device)  # nccl moves no CPU tensors
        with self.exchange("a sum over all ranks"):
            dist.all_reduce(sums)
            return sums.cpu()

    def broadcast_json(self, value: Any = None) -> Any:
        """Return rank 0's value, which JSON must be able to hold; the others' argument is not looked at.

        Raises:
            TrainingError: Another rank is gone or did not come in time.
        """
        if self.world_size == 1:
            return value
        text = json.dumps(value, allow_nan=False).encode("utf-8") if self.is_main else b""
        length = torch.tensor([len(text)], dtype=torch.int64, device=self.device)
        with self.exchange("a value from rank 0"):
            # The others need a buffer of the right size before the value itself can be sent.
            dist.broadcast(length, src=0)
            data = torch.zeros(int(length.item()), dtype=torch.uint8, device=self.device)
            if self.is_main:
                data.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
            dist.broadcast(data, src=0)
            return json.loads(bytes(data.tolist()))

    def __enter__(self) -> World:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave the process group; after a failure not nccl's, which would wait for the others once more."""
        if kind is None or self.backend == "gloo":
            self.stop()

    def stop(self) -> None:
        """Leave the process group; the world cannot be used afterwards."""
        if self.heartbeat is not None:
            self.heartbeat.stop()
        if self.backend is not None:
            dist.destroy_process_group()

    def enter(self, step: int, part: str) -> None:
        """Tell the others, should they wait for this rank, which part of which step it is in."""
        if self.heartbeat is not None:
            self.heartbeat.enter(step, part)

    @contextlib.contextmanager
    def exchange(self, what: str, *, computes: bool = False) -> Iterator[None]:
        """Turn a failed exchange into an error that names the ranks that are lost; every exchange passes here.

        Args:
            what: What is waited for.
            computes: The block also computes (a backward pass exchanges gradients as it goes), so an error may be one
                of the computation, which passes unchanged; and a rank in it is not known to wait.
        """
        beat = self.heartbeat
        before = None if beat is None else beat.place
        if beat is not None and before is not None:
            beat.enter(before[0], what, waits=not computes)
        try:
            yield
        except RuntimeError as error:
            if computes and not _is_of_others(error):
                raise
            raise TrainingError(
                f"rank {self.rank} of {self.world_size} waited in vain for {what}",
                seen=str(error).splitlines()[0] if beat is None else f"{beat.report()} ({str(error).splitlines()[0]})",
                fix="look at the machine and the messages of the ranks named here, then start again; the run resumes",
            ) from error
        if beat is not None and before is not None:
            beat.enter(*before)

    @contextlib.contextmanager
    def patience(self) -> Iterator[None]:
        """Let exchanges take `PATIENCE` times as long in the block: one rank may compile, measure or write in it."""
        if self.backend is None:
            yield
            return
        self.allow(PATIENCE * self.timeout_seconds)
        try:
            yield
        finally:
            self.allow(self.timeout_seconds)

    def allow(self, seconds: float) -> None:
        """Set how long the exchanges to come may take."""
        if self.heartbeat is not None and self.backend == "nccl":
            self.heartbeat.alarm_seconds = 0.9 * seconds
        groups = dist.distributed_c10d._world.pg_map  # a mesh of ranks has groups of its own, with times of their own
        for group in [group for group in groups if isinstance(group, dist.ProcessGroup)]:
            _set_pg_timeout(datetime.timedelta(seconds=seconds), group)


def _is_of_others(error: RuntimeError) -> bool:
    """Return whether an error inside a computation is of an exchange; gloo's have no type of their own."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def start_world(
    device: str = "auto", *, timeout_seconds: float = 600.0, environment: Mapping[str, str] | None = None
) -> World:
    """Join the other processes, if torchrun started several.

    Args:
        device: `auto`, `cpu`, `cuda` or `mps`.
        timeout_seconds: How long one exchange may take before the others count as lost; to come, they have `PATIENCE`
            times as long.
        environment: Where torchrun's variables are; by default the process's environment.

    Raises:
        SeqpairError: A device that is not there, or variables that make no sense.
        TrainingError: The others did not come.
    """
    environment = os.environ if environment is None else environment
    rank, world_size, local_rank = _read_environment(environment)
    chosen = choose_device(device, local_rank)
    if world_size == 1:
        return World(0, 1, local_rank, chosen, None)
    if chosen.type == "mps":
        raise SeqpairError("several processes cannot train on mps", seen=f"WORLD_SIZE={world_size}", allowed=1)
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    world = World(rank, world_size, local_rank, chosen, backend, timeout_seconds)
    # Rank 0 may read all data before it comes here.
    seconds = PATIENCE * timeout_seconds
    with world.exchange("the machine of rank 0, where the ranks meet"):
        store = _meeting_place(environment, rank, world_size, seconds)
        # A connection of its own, since a thread that waits for an answer blocks all others on the same one.
        beats = Heartbeat(_meeting_place(environment, None, world_size, seconds), rank, world_size)
    here = int(environment.get("LOCAL_WORLD_SIZE", world_size))
    world = dataclasses.replace(world, heartbeat=beats, ranks_per_machine=here)
    with world.exchange("the process group"):
        dist.init_process_group(
            backend,
            store=store,
            rank=rank,
            world_size=world_size,
            timeout=datetime.timedelta(seconds=seconds),
            device_id=chosen if chosen.type == "cuda" else None,
        )
    world.allow(timeout_seconds)
    return world


def _meeting_place(
    environment: Mapping[str, str], rank: int | None, world_size: int, timeout_seconds: float
) -> dist.Store:
    """Return the store through which the ranks find each other, apart for each attempt of torchrun.

    Torch's own is shared by the attempts (2.13: `rendezvous.py`), so restarted ranks can connect to the ports
    of the dead ones. Under torchrun the agent holds the store; else rank 0 does; without a rank
    it is one more connection.
    """
    is_held_by_agent = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = dist.TCPStore(
        environment.get("MASTER_ADDR", "127.0.0.1"),
        int(environment.get("MASTER_PORT", "29500")),
        world_size,
        is_master=rank == 0 and not is_held_by_agent,
        # The group waits for all ranks itself, and can then say which one never came.
        wait_for_workers=False,
        timeout=datetime.timedelta(seconds=timeout_seconds),
    )
    return dist.PrefixStore(f"attempt{environment.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def choose_device(device: str, local_rank: int = 0) -> torch.device:
    """Return the device of this name for this process; `auto` is CUDA if it is there, else the CPU.

    Raises:
        SeqpairError: An unknown name, or a device that is not there.
    """
    if device not in _DEVICE_NAMES:
        raise SeqpairError("unknown device", seen=device, allowed=", ".join(_DEVICE_NAMES))
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if device == "mps":
        _require_there(torch.backends.mps.is_available(), "mps")
        return torch.device("mps")
    _require_there(torch.cuda.is_available(), "cuda")
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise SeqpairError(
            "more processes on this machine than CUDA devices",
            seen=f"LOCAL_RANK={local_rank}",
            allowed=f"0 to {count - 1}",
            fix=f"start torchrun with --nproc-per-node {count} or fewer",
        )
    chosen = torch.device("cuda", local_rank)
    torch.cuda.set_device(chosen)
    return chosen


def _require_there(there: bool, device: str) -> None:
    if not there:
        raise SeqpairError(
            f"the device {device} was asked for, but torch {torch.__version__} finds none here",
            seen=f"device: {device}",
            fix="set `runtime.device` to auto or cpu, or install the build of torch for this device",
        )


def _read_environment(environment: Mapping[str, str]) -> tuple[int, int, int]:
    """Return rank, world size and local rank; (0, 1, 0) if no launcher set them."""
    given = {name: environment[name] for name in _VARIABLES if name in environment}
    if not given:
        return 0, 1, 0
    try:
        rank, world_size, local_rank = (int(given[name]) for name in _VARIABLES)
    except (KeyError, ValueError):
        rank, world_size, local_rank = -1, 0, -1
    # A machine's ranks are numbered in order, so a local rank never exceeds the rank.
    if not (0 <= rank < world_size and 0 <= local_rank <= rank):
        raise SeqpairError(
            "the launcher's environment variables make no sense",
            seen=", ".join(f"{name}={given.get(name, 'not set')}" for name in _VARIABLES),
            allowed="all three set, with 0 <= LOCAL_RANK <= RANK < WORLD_SIZE; or none of them",
            fix="start several processes with torchrun, or unset the variables",
        )
    return rank, world_size, local_rank


def wrap(module: nn.Module, world: World) -> nn.Module:
    """Return the module with its gradients averaged over all ranks; itself, if there is one rank.

    Parameters are made equal to rank 0's. Gradients are the *mean* over ranks: a loss that is a sum
    over all ranks' tokens has to be multiplied by `world.world_size` on each. Parameters that are
    used outside `forward` (a tied table in the loss) take part as well, given one backward for each forward.

    Args:
        module: On `world.device`; every trainable parameter gets a gradient in every backward.
        world: The ranks.
    """
    if world.world_size == 1:
        return module
    device_ids = [world.device.index] if world.device.type == "cuda" else None
    # Gradients that are views of the buckets save one copy of all gradients.
    return DistributedDataParallel(module, device_ids=device_ids, gradient_as_bucket_view=True)


def no_sync(module: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Return a block whose forward and backward only accumulate: for all microbatches of a step but the last.

    Shards of gradients are reduced within a machine after every microbatch all the same, else each rank would have to
    keep whole gradients; the sum over machines is left to the last one.
    """
    if isinstance(module, DistributedDataParallel):
        return module.no_sync()
    return _accumulating(module) if hasattr(module, "set_requires_all_reduce") else contextlib.nullcontext()


@contextlib.contextmanager
def _accumulating(module: Any) -> Iterator[None]:
    module.set_requires_all_reduce(False)
    module.set_is_last_backward(False)
    try:
        yield
    finally:
        module.set_requires_all_reduce(True)
        module.set_is_last_backward(True)
