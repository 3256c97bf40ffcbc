"""The presets against the published table, and docs/phases.md and results/published.md against both.

The constants are the published values, by size in the order of SIZES; nothing here is computed from a preset.
"""

import re
from pathlib import Path

import pytest

from seqpair.recipe.load import load_recipe
from seqpair.recipe.plan import PhasePlan, Plan
from seqpair.recipe.resolve import resolve_plans
from seqpair.recipe.schema import Recipe

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "phases.md").read_text(encoding="utf-8")
VALUES = (ROOT / "results" / "published.md").read_text(encoding="utf-8")
SIZES = ("17m", "32m", "68m", "150m", "400m", "1b")
PHASES = ("pretrain", "extend", "decay", "cross")

PEAK = dict(zip(SIZES, (3e-3, 3e-3, 3e-3, 8e-4, 5e-4, 5e-4), strict=True))
WEIGHT_DECAY = dict(zip(SIZES, (3e-4, 3e-4, 3e-4, 1e-5, 1e-5, 5e-5), strict=True))
WARMUP_TOKENS = dict(zip(SIZES, (4e9, 4e9, 3e9, 3e9, 2e9, 2e9), strict=True))
RAMP_TOKENS = dict(zip(SIZES, (125e9, 100e9, 75e9, 50e9, 10e9, 3e9), strict=True))
TOKENS = {
    "pretrain": dict.fromkeys(SIZES, 1_700_000_000_000),
    "extend": {**dict.fromkeys(SIZES, 250_000_000_000), "1b": 83_333_000_000},
    "decay": {**dict.fromkeys(SIZES, 50_000_000_000), "1b": 16_666_666_667},
    "cross": {**dict.fromkeys(SIZES, 50_000_000_000), "1b": 16_666_666_667},
}
END_FRACTIONS = {"pretrain": 1.0, "extend": 0.5, "decay": 0.02, "cross": 0.5 * 0.02}
LAST_STEP_SEEN, STEPS_WITHOUT_RAMP = 599_525, 599_876
BATCH, FIRST_BATCH = 4608, 288


def plans_of(size: str) -> dict[str, Plan]:
    recipe = load_recipe(f"ettin-{size}")
    return resolve_plans(recipe, list(recipe.members))


@pytest.fixture(scope="module")
def plans() -> dict[str, dict[str, Plan]]:
    return {size: plans_of(size) for size in SIZES}


def phases(plans: dict[str, Plan]) -> dict[str, PhasePlan]:
    return {phase.name: phase for member in ("encoder", "encoder-from-decoder") for phase in plans[member].phases}


@pytest.mark.parametrize("size", SIZES)
def test_tokens_batches_and_steps(size: str, plans: dict[str, dict[str, Plan]]) -> None:
    for name, phase in phases(plans[size]).items():
        assert phase.budget_tokens == TOKENS[name][size]
        assert phase.batch_stages[-1].sequences == BATCH
        plateau_steps = TOKENS[name][size] / phase.mean_tokens / BATCH
        if name in ("extend", "decay"):
            assert (len(phase.batch_stages), phase.steps) == (1, round(plateau_steps))
            continue
        # A ramp from f to B over R tokens takes 2 R / (f + B) steps where the plateau takes R / B.
        over = RAMP_TOKENS[size] if name == "pretrain" else {"1b": 3_333_333_333}.get(size, 10e9)
        more = over / phase.mean_tokens * (2 / (FIRST_BATCH + BATCH) - 1 / BATCH)
        assert phase.steps == pytest.approx(plateau_steps + more, rel=3e-3)  # the stages' sizes are rounded down
        assert (len(phase.batch_stages), phase.batch_stages[0].sequences) == (64, FIRST_BATCH)
        ramp_end = phase.batch_stages[-1].first_position * phase.mean_tokens
        assert ramp_end == pytest.approx(over, rel=0.02)


def test_without_the_ramp_the_steps_are_the_published_ones() -> None:
    recipe = load_recipe("ettin-150m", ["phases.pretrain.batch.ramp=null"])
    steps = resolve_plans(recipe, ["encoder"])["encoder"].phases[0].steps
    assert steps == STEPS_WITHOUT_RAMP
    assert steps == pytest.approx(LAST_STEP_SEEN, rel=1e-3)


@pytest.mark.parametrize("size", SIZES)
def test_rates_and_schedules(size: str, plans: dict[str, dict[str, Plan]]) -> None:
    found = phases(plans[size])
    optimizer = plans[size]["encoder"].optimizer
    assert (optimizer.lr, optimizer.weight_decay) == (PEAK[size], WEIGHT_DECAY[size])
    assert (optimizer.beta1, optimizer.beta2, optimizer.eps, optimizer.clip_norm) == (0.9, 0.98, 1e-6, None)
    for name, phase in found.items():
        assert optimizer.lr * phase.lr_frac(phase.steps - 1) == PEAK[size] * END_FRACTIONS[name]
    third = 3 if size == "1b" else 1
    assert found["pretrain"].lr.warmup_tokens == WARMUP_TOKENS[size]
    assert found["cross"].lr.warmup_tokens == 3e9 / third
    assert found["cross"].lr.decay_tokens == pytest.approx(10e9 / third, rel=1e-3)
    assert max(found["cross"].lr_frac(step) for step in range(0, found["cross"].steps, 97)) == 0.5


def test_every_phase_border_is_exact(plans: dict[str, dict[str, Plan]]) -> None:
    borders = {
        name: (
            phase.lr.start_frac,
            phase.lr_frac(phase.steps - 1),
            phase.seq_len,
            phase.rope_global_theta,
            phase.rope_local_theta,
            phase.mask_frac,
        )
        for name, phase in phases(plans["17m"]).items()
    }
    assert borders == {
        "pretrain": (1.0, 1.0, 1024, 10_000.0, 10_000.0, 0.3),
        "extend": (1.0, 0.5, 8000, 160_000.0, 160_000.0, 0.3),
        "decay": (0.5, 0.02, 8000, 160_000.0, 160_000.0, 0.15),
        "cross": (0.5, 0.01, 8000, 160_000.0, 160_000.0, 0.15),
    }
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \| (\d+) \| (\d+) \| (\S+) \|$", PAGE, re.MULTILINE)
    shown = {name: tuple(float(value) for value in values) for name, *values in rows}
    assert shown == {name: (end, length, base, mask) for name, (_, end, length, base, _, mask) in borders.items()}


@pytest.mark.parametrize("size", SIZES)
def test_all_members_of_a_size_share_bases_lengths_and_rates(size: str, plans: dict[str, dict[str, Plan]]) -> None:
    four = plans[size]
    assert list(four) == ["encoder", "decoder", "encoder-from-decoder", "decoder-from-encoder"]
    for one, other in (("encoder", "decoder"), ("encoder-from-decoder", "decoder-from-encoder")):
        bare = [
            [phase.model_copy(update={"objectives": (), "mask_frac": None}) for phase in four[member].phases]
            for member in (one, other)
        ]
        assert bare[0] == bare[1]


@pytest.mark.parametrize("size", SIZES)
def test_checkpoints_every_8_5b_tokens_after_the_early_ones(size: str, plans: dict[str, dict[str, Plan]]) -> None:
    found = phases(plans[size])
    pretrain = found["pretrain"]
    early = [step for step in pretrain.checkpoint_steps if pretrain.planned_tokens(step) < 8.5e9]
    assert early == [1 << power for power in range(len(early))]
    assert 2 * early[-1] >= pretrain.checkpoint_steps[len(early)]
    for name, phase in found.items():
        steps = phase.checkpoint_steps[len(early) if name == "pretrain" else 0 :]
        for index, step in enumerate(steps[:-1], 1):
            assert phase.planned_tokens(step - 1) < index * 8.5e9 <= phase.planned_tokens(step)
        assert steps[-1] == phase.steps


def billions(tokens: float) -> str:
    return f"{tokens / 1e9:,.3f}".rstrip("0").rstrip(".") + "B"


def test_the_page_holds_the_published_values_and_ours(plans: dict[str, dict[str, Plan]]) -> None:
    names = "|".join(PHASES)
    rows = [line.strip("|").split("|") for line in VALUES.splitlines() if re.match(rf"\| \w+ \| (?:{names}) ", line)]
    shown = {(row[0].strip(), row[1].strip()): [cell.strip() for cell in row[2:]] for row in rows}
    expected = {}
    for size in SIZES:
        for name, phase in phases(plans[size]).items():
            seen = f"{LAST_STEP_SEEN:,}" if name == "pretrain" and size != "1b" else "-"
            ends = PEAK[size] * END_FRACTIONS[name], PEAK[size] * phase.lr_frac(phase.steps - 1)
            tokens = billions(TOKENS[name][size]), billions(phase.budget_tokens)
            expected[size, name] = [*tokens, seen, f"{phase.steps:,}", *(f"{end:.3g}" for end in ends)]
    assert {key: cells[:6] for key, cells in shown.items()} == expected
    for cells in shown.values():
        differs = cells[0] != cells[1] or cells[4] != cells[5] or cells[2] not in ("-", cells[3])
        assert cells[6] or not differs, "a difference has its reason"


def test_the_page_holds_the_rates_and_ramps() -> None:
    for size in SIZES:
        recipe = load_recipe(f"ettin-{size}")
        (line,) = re.findall(rf"^\| {size} \| (\d\S+ \| \d\S+ \| .*) \|$", VALUES, re.MULTILINE)
        published = (
            f"{PEAK[size]:.3g}",
            f"{WEIGHT_DECAY[size]:.3g}",
            billions(WARMUP_TOKENS[size]),
            billions(RAMP_TOKENS[size]),
            "10B",
        )
        assert line.split(" | ")[::2] == list(published)
        assert line.split(" | ")[1::2] == ours(recipe)


def ours(recipe: Recipe) -> list[str]:
    pretrain, _, _, cross = recipe.phases
    assert pretrain.batch.ramp is not None
    assert cross.batch.ramp is not None
    rates = f"{recipe.optimizer.lr:.3g}", f"{recipe.optimizer.weight_decay:.3g}"
    ramps = pretrain.batch.ramp.over_tokens, cross.batch.ramp.over_tokens
    return [*rates, *(billions(tokens) for tokens in (pretrain.lr.warmup_tokens, *ramps))]


MIXTURE = """
arxiv 28.0 4.1 3.0
books 5.3 0.8 10.5
cc-head 356.6 - -
cc-news 7.3 - -
code-repositories - - 20.2
dclm 837.2 - -
dclm-dolmino - 175.5 26.0
math-dolmino - 10.4 5.0
open-web-math 12.7 - -
algebraic-stackexchange 12.6 - -
pes2o 57.3 8.3 -
reddit 80.3 6.2 -
stackexchange 19.6 - -
stackexchange-dolmino - 2.7 4.0
starcoder 263.9 38.4 -
textbooks - - 0.5
tulu-flan 16.6 2.4 4.1
wikipedia 7.3 0.5 3.0
"""
MIXTURE_TOTALS = (1704.7, 249.3, 76.3)


def test_the_mixture_is_the_published_table(plans: dict[str, dict[str, Plan]]) -> None:
    rows = [line.split() for line in MIXTURE.split("\n") if line]
    found = phases(plans["17m"])
    assert [source.name for source in plans["17m"]["encoder"].sources] == [row[0] for row in rows]
    for column, name in enumerate(("pretrain", "extend", "decay")):
        tokens = {row[0]: float(row[1 + column]) for row in rows if row[1 + column] != "-"}
        assert sum(tokens.values()) == pytest.approx(MIXTURE_TOTALS[column])
        shares = {part.source: part.share for part in found[name].mixture}
        assert sum(share or 0.0 for share in shares.values()) == pytest.approx(1.0, abs=1e-12)
        assert list(shares) == list(tokens)
        for source, billion in tokens.items():
            assert shares[source] == pytest.approx(billion / MIXTURE_TOTALS[column], abs=1.5e-4), source
    assert found["cross"].mixture == found["decay"].mixture


def test_as_run_differs_from_the_intended_recipe_in_the_named_keys_only() -> None:
    intended, run = (load_recipe(name).model_dump(mode="json") for name in ("published-data", "as-run"))
    changed = {}
    for meant, done in zip(intended["phases"], run["phases"], strict=True):
        for section in ("batch", "lr"):
            changed |= {
                f"{meant['name']}.{section}.{key}": value
                for key, value in done[section].items()
                if value != meant[section][key]
            }
            meant.pop(section), done.pop(section)
    assert changed == {
        "pretrain.batch.ramp": None,
        "decay.lr.start_frac": 1.0,
        "decay.lr.end_frac": 0.04,
        "cross.batch.ramp": None,
    }
    intended.pop("name"), run.pop("name")
    assert intended == run
    page = VALUES.partition("## As it was run")[2]
    for key in ("pretrain.batch.ramp", "cross.batch.ramp", "decay.lr.start_frac", "decay.lr.end_frac"):
        assert f"`phases.{key}`" in page


def test_as_run_without_its_ramp_has_the_published_steps() -> None:
    recipe = load_recipe("as-run")
    assert resolve_plans(recipe, ["encoder"])["encoder"].phases[0].steps == STEPS_WITHOUT_RAMP
    assert recipe.data.tokenizer.path == "hf://answerdotai/ModernBERT-base"
    paths = [path for source in recipe.data.sources for path in source.paths]
    assert paths == [f"hf://datasets/jhu-clsp/ettin-{kind}-data" for kind in ("pretraining", "extension", "decay")]
