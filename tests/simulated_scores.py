"""Scores of made-up members, for the tests of comparisons."""

import numpy as np

from seqpair.compare.values import Model, Scores, Task
from seqpair.evaluate.results import TaskResult, items_name, weighted_mean
from seqpair.recipe.diff import PairIdentity

PARTS = {"shape": "s", "model": "m", "tokenizer": "t", "data": "d", "optimizer": "o"}
IDENTITY = PairIdentity({**PARTS, "phase main": "p"})
CROSSED = PairIdentity({**PARTS, "phase cross": "c"}, False)
LARGER = PairIdentity({**IDENTITY.parts, "shape": "larger", "optimizer": "slower"})


def model(member="encoder", size="1m", seed=0, identity=IDENTITY, **more):
    direction = more.pop("direction", "causal" if member.startswith("decoder") else "bidirectional")
    parameters = {"1m": 1e6, "4m": 4e6, "17m": 17e6}.get(size)
    return Model(
        member,
        size,
        seed,
        direction,
        identity,
        non_embedding_parameters=None if parameters is None else int(parameters),
        **more,
    )


def scores(values, who=None, task=None, ids=None, weights=None, **more):
    values = np.asarray(values, dtype=float)
    ids = tuple(f"item{i:04d}" for i in range(len(values))) if ids is None else tuple(ids)
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=float)
    return Scores(who or model(), task or Task("blimp", title="BLiMP", chance=0.5), ids, values, weights, **more)


def result_of(items, **changes):
    """Return a result of these items, as an evaluation writes it."""
    fields = {
        "task": "blimp",
        "version": 1,
        "title": "BLiMP",
        "study": "s",
        "member": "encoder",
        "metric": "acc",
        "unit": "share of items",
        "higher_is_better": True,
        "chance": 0.5,
        "n": len(items),
        "value": weighted_mean(items),
        "interval": (0.0, 1.0),
        "interval_method": "none",
        "settings": {"limit": None},
        "model_digest": "d",
        "items": items_name("blimp"),
    }
    return TaskResult(**(fields | changes))


def study(members, *, seeds=3, items=400, sizes=("1m",), tasks=("blimp",), spread=0.01, seed=0):
    """Return scores of members by their accuracy: {name: accuracy or (accuracy, identity)}."""
    generator = np.random.default_rng(seed)
    found = []
    for task in tasks:
        difficulty = generator.uniform(size=items)
        for size in sizes:
            for name, accuracy in members.items():
                chosen, identity = accuracy if isinstance(accuracy, tuple) else (accuracy, IDENTITY)
                identity = LARGER if size != "1m" else identity
                for one in range(seeds):
                    reached = chosen + spread * generator.standard_normal()
                    own = 0.7 * difficulty + 0.3 * generator.uniform(size=items)
                    right = np.argsort(np.argsort(own)) < reached * items
                    who = model(name, size, one, identity)
                    found.append(scores(right, who, Task(task, title=task.title(), chance=0.5)))
    return found
