"""`seqpair` with a rank that is killed once, at a place of the step: python killed_rank.py PLACE ARGUMENTS..."""

import os
import signal
import sys

from seqpair.cli.app import main
from seqpair.distributed.world import World
from seqpair.train import loop

AT_CALL = {"backward": 7, "all_reduce": 40, "save": 1}


def dies_at(call, number):
    """Return the call, which kills this process at its call of this number."""
    made = 0

    def counted(*args, **kwargs):
        nonlocal made
        made += 1
        if made == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)

    return counted


place = sys.argv.pop(1)
victim = "0" if place == "save" else "1"  # rank 0 alone saves
if os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0" and os.environ["RANK"] == victim:
    if place == "backward":
        loop.accumulate_gradients = dies_at(loop.accumulate_gradients, AT_CALL[place])
    elif place == "all_reduce":
        World.all_reduce_sum = dies_at(World.all_reduce_sum, AT_CALL[place])
    else:
        loop.save_checkpoint = dies_at(loop.save_checkpoint, AT_CALL[place])
main()
