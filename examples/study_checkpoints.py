"""What a checkpoint has seen: the order of the data, forwards and backwards, and how a text's likelihood grows.

The cells run one after the other, in a notebook or as a script: python examples/study_checkpoints.py
"""

# %% A decoder with a checkpoint every few steps.
import seqpair

RECIPE, BUDGET, EVERY = "demo", "500k", "50k"

study = seqpair.Study(
    RECIPE, set={"name": "checkpoints", "budget": BUDGET, "checkpoints.every_tokens": EVERY, "runs": "runs"}
)
study.prepare()
study.train("decoder")

# %% Which documents did step 3 contain? Nothing is looked up in a log: the order is a formula.
step = study.order(step=3)
for entry in step.sequences[:5]:
    print(entry.source, entry.document, f"piece {entry.piece} of {entry.pieces}")

# %% When is the first of them read, and which checkpoints have seen it?
document = step.sequences[0].document
for trace in study.order(document=document):
    print(trace.source, [reading.step for reading in trace.readings], [seen.checkpoint for seen in trace.seen_by])

# %% How likely every checkpoint finds a sentence.
for checkpoint in sorted((study.folder / "decoder" / "checkpoints").glob("step*"), key=lambda path: int(path.name[4:])):
    model = seqpair.load(checkpoint)
    print(checkpoint.name, round(model.score([""], ["return the value of the first argument"])[0].log_prob, 2))
