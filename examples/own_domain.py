"""A pair of models on your own text, from a folder of files to a model that fills, continues and embeds.

The cells run one after the other, in a notebook or as a script: python examples/own_domain.py
"""

# %% Your text: one document per file. Everything else has the values of the preset.
from pathlib import Path

import seqpair

TEXT = "texts/*.txt"
SIZE, BUDGET = "1m", "2M"

Path("mine.yaml").write_text(
    f"""\
extends: {SIZE}
name: mine
budget: {BUDGET}
data:
  sources:
    - {{name: mine, kind: text, paths: ["{TEXT}"], held_out_frac: 0.1}}
""",
    encoding="utf-8",
)
study = seqpair.Study("mine.yaml")

# %% What would be trained, and all that differs between the two members, each with its reason.
for member in study.members:
    phase = study.plan(member).phases[0]
    print(member, phase.steps, "steps of", phase.batch_stages[-1].sequences, "sequences")
for difference in study.diff():
    print(difference.path, difference.a, difference.b, "-", difference.reason)

# %% Prepare the text, train both, export, evaluate and report. Repeat the call after any interruption.
outcome = study.run()
print("report:", outcome.page)

# %% Use them.
encoder = seqpair.load(study.export("encoder"))
decoder = seqpair.load(study.export("decoder"))
print(encoder.fill("the [MASK] of the house")[0].predictions[0])
print(decoder.generate(["The house"], max_new_tokens=20)[0].text)
vectors = encoder.embed(["a quiet harbour", "a bright lantern"], normalise=True)
print("cosine:", float(vectors[0] @ vectors[1]))
