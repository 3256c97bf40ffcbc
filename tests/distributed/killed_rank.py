"""`seqpair` with a rank that gets a signal once, at one call: python killed_rank.py SIGNAL PLACE CALL ARGUMENTS..."""

import os
import signal
import sys
import time

from seqpair.cli.app import main
from seqpair.distributed.heartbeat import INTERVAL_SECONDS
from seqpair.distributed.world import World
from seqpair.train import loop, step


def signalled_at(call, number, signal_number):
    """Return the call, which sends this process a signal at its call of this number."""
    made = 0

    def counted(*args, **kwargs):
        nonlocal made
        made += 1
        if made == number:
            time.sleep(2 * INTERVAL_SECONDS)  # so that the others know where this rank is
            sys.stderr.write("signal sent\n")
            sys.stderr.flush()
            os.kill(os.getpid(), signal_number)
        return call(*args, **kwargs)

    return counted


signal_number, place, number = signal.Signals[sys.argv.pop(1)], sys.argv.pop(1), int(sys.argv.pop(1))
victim = "0" if place == "save" else "1"  # rank 0 alone writes
if os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0" and os.environ["RANK"] == victim:
    at = number, signal_number
    if place == "backward":
        step.summed_cross_entropy = signalled_at(step.summed_cross_entropy, *at)
    elif place == "all_reduce":
        World.all_reduce_sum = signalled_at(World.all_reduce_sum, *at)
    else:
        loop.save_checkpoint = signalled_at(loop.save_checkpoint, *at)
main()
