"""Compare two objectives over several seeds, and read who is ahead and how sure that is.

The cells run one after the other, in a notebook or as a script: python examples/compare_objectives.py
"""

# %% Each seed is a study of the same recipe. A verdict about training needs at least three seeds; five are better.
import seqpair

RECIPE, BUDGET, SEEDS = "demo", "500k", (0, 1, 2)

for seed in SEEDS:
    study = seqpair.Study(
        RECIPE, set={"seed": seed, "name": f"seed{seed}", "budget": BUDGET, "runs": "runs/objectives"}
    )
    study.run()

# %% Every answer has a difference, its interval over items and seeds, p corrected for its family, and a verdict.
answers = seqpair.compare_members("runs/objectives")
for answer in answers:
    print(answer.sentence)

# %% The same as a table. `seqpair report runs/objectives` writes it as a page with figures.
frame = answers.to_frame()
print(frame[["task", "first", "second", "value", "low", "high", "p_adjusted", "verdict"]].to_string())
