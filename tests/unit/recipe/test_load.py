import json
from functools import reduce
from pathlib import Path

import pytest

from seqpair.errors import RecipeError
from seqpair.recipe.load import PRESETS_FOLDER, load_recipe, preset_names
from seqpair.recipe.sizes import SIZES


def write(folder: Path, text: str, name: str = "my.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_there_is_a_preset_for_every_size_and_the_demo() -> None:
    published = {"17m", "32m", "68m", "150m", "400m", "1b"}
    others = {"demo", "fast-1m", "study-1m", "published-data", "as-run"}
    assert set(preset_names()) == {*SIZES, *others, *(f"ettin-{size}" for size in published)}


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_valid_and_named_after_themselves(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    objectives = {member: [part.objective for part in spec.objective or ()] for member, spec in recipe.members.items()}
    pair, cross = (
        {"encoder": ["mlm"], "decoder": ["clm"]},
        {"encoder-from-decoder": ["mntp"], "decoder-from-encoder": ["clm"]},
    )
    if name == "study-1m":
        cross |= {"encoder-continued": ["mlm"], "decoder-continued": ["clm"]}
    phases = [phase.name for phase in recipe.phases]
    if name in ("demo", "fast-1m", "1m", "4m", "test"):
        assert (objectives, phases) == (pair, ["pretrain"])
    else:
        assert (objectives, phases) == (pair | cross, ["pretrain", "extend", "decay", "cross"])
    sizes = {"demo": "1m", "fast-1m": "1m", "published-data": "150m", "as-run": "150m"}
    assert recipe.size == sizes.get(name, name.removeprefix("ettin-").removeprefix("study-"))


@pytest.mark.parametrize(
    ("size", "lr", "weight_decay", "warmup", "ramp"),
    [
        ("17m", 3e-3, 3e-4, 4e9, 125e9),
        ("32m", 3e-3, 3e-4, 4e9, 100e9),
        ("68m", 3e-3, 3e-4, 3e9, 75e9),
        ("150m", 8e-4, 1e-5, 3e9, 50e9),
        ("400m", 5e-4, 1e-5, 2e9, 10e9),
        ("1b", 5e-4, 5e-5, 2e9, 3e9),
    ],
)
def test_published_values(size: str, lr: float, weight_decay: float, warmup: float, ramp: float) -> None:
    recipe = load_recipe(size)
    phase = recipe.phases[0]
    assert (recipe.optimizer.lr, recipe.optimizer.weight_decay) == (lr, weight_decay)
    assert (recipe.optimizer.beta1, recipe.optimizer.beta2, recipe.optimizer.eps) == (0.9, 0.98, 1e-6)
    assert recipe.optimizer.clip_norm is None
    assert (phase.seq_len, phase.budget_tokens, phase.mask_frac) == (1024, 1_700_000_000_000, 0.3)
    assert (phase.rope_global_theta, phase.rope_local_theta) == (10_000, 10_000)
    assert phase.batch.sequences == 4608
    assert phase.batch.ramp is not None
    assert phase.batch.ramp.over_tokens == ramp
    assert (phase.lr.warmup_tokens, phase.lr.decay_tokens) == (warmup, 0)
    assert recipe.checkpoints.every_tokens == 8_500_000_000


def test_human_numbers_wherever_a_count_stands(tmp_path: Path) -> None:
    text = """
extends: demo
budget: 3M
data: {tokenizer: {train_vocab_size: 1k, train_bytes: 2.5M}}
phases:
  pretrain:
    {seq_len: 1k, budget_tokens: 1e6, batch: {tokens: 16k}, lr: {warmup_tokens: 1_0k, decay_tokens: 0.4M}}
checkpoints: {every_tokens: 8.5B, keep: {last: 3, every_tokens: 17B}}
held_out: {every_tokens: 1T, sequences: 0.1k}
runtime: {microbatch_tokens: 4k}
"""
    recipe = load_recipe(write(tmp_path, text))
    (phase,) = recipe.phases
    assert recipe.budget == 3_000_000
    assert (recipe.data.tokenizer.train_vocab_size, recipe.data.tokenizer.train_bytes) == (1000, 2_500_000)
    assert (phase.seq_len, phase.budget_tokens, phase.batch.tokens) == (1000, 1_000_000, 16_000)
    assert (phase.lr.warmup_tokens, phase.lr.decay_tokens) == (10_000, 400_000)
    assert recipe.checkpoints.every_tokens == 8_500_000_000
    assert recipe.checkpoints.keep.every_tokens == 17_000_000_000
    assert (recipe.held_out.every_tokens, recipe.held_out.sequences) == (10**12, 100)
    assert recipe.runtime.microbatch_tokens == 4000


def test_a_yes_or_no_key_takes_no(tmp_path: Path) -> None:
    assert load_recipe("demo", ["runtime.deterministic=yes"]).runtime.deterministic is True
    assert load_recipe("demo", ["runtime.deterministic=no"]).runtime.deterministic is False


def test_a_size_may_be_a_shape() -> None:
    recipe = load_recipe("demo", ["size={layers: 7, width: 96, inner: 144, heads: 3}"])
    assert recipe.size_label == "custom"
    assert recipe.shape.head_dim == 32


def test_extends_chains_and_origins(tmp_path: Path) -> None:
    write(tmp_path, "extends: demo\nseed: 5\noptimizer:\n  lr: 1e-3\n  clip_norm: 1.0\n", "base.yaml")
    path = write(tmp_path, "extends: base.yaml\noptimizer:\n  clip_norm: null\n  weight_decay: 0\n")
    recipe = load_recipe(path, ["runs=elsewhere", "phases.pretrain.seq_len=256"])
    assert (recipe.seed, recipe.optimizer.lr, recipe.optimizer.clip_norm) == (5, 1e-3, None)
    origins = recipe.origins
    assert origins["seed"] == "file base.yaml:2"
    assert origins["optimizer.lr"] == "file base.yaml:4"
    assert origins["optimizer.weight_decay"] == "file my.yaml:4"
    assert origins["optimizer.clip_norm"] == "default"
    assert origins["optimizer.beta1"] == "preset _published"
    assert origins["data.sources.0.name"] == "preset demo"
    assert origins["runs"] == "--set"
    assert origins["phases.0.seq_len"] == "--set"
    assert recipe.folder == tmp_path


def test_paths_are_relative_to_the_file_that_states_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    write(
        tmp_path / "sub",
        "extends: 1m\ndata:\n  sources: [{name: corpus, kind: text, paths: [a.txt, /b/*.txt]}]\n"
        "  tokenizer: {path: tok}\n",
        "base.yaml",
    )
    path = write(tmp_path, "extends: sub/base.yaml\nname: mine\n")
    recipe = load_recipe(path)
    assert recipe.data.sources[0].paths == (str(tmp_path / "sub" / "a.txt"), "/b/*.txt")
    assert recipe.data.tokenizer.path == str(tmp_path / "sub" / "tok")
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(path, ["data.sources.corpus.paths=[here.txt]"])
    assert recipe.data.sources[0].paths == (str(tmp_path / "here.txt"),)
    by_name = write(tmp_path, "extends: 1m\ndata: {sources: {corpus: {paths: [c.txt]}}}\n", "named.yaml")
    assert load_recipe(by_name).data.sources[0].paths == (str(tmp_path / "c.txt"),)


def test_several_recipes_are_laid_over_each_other_in_order(tmp_path: Path) -> None:
    write(tmp_path, "seed: 5\nphases: {pretrain: {seq_len: 256, batch: {ramp: null}}}\n", "layer.yaml")
    write(tmp_path, "extends: layer.yaml\nseed: 6\n", "above.yaml")
    recipe = load_recipe(write(tmp_path, "extends: [1m, above.yaml]\nname: mine\n"))
    (phase,) = recipe.phases
    assert (recipe.seed, phase.seq_len, phase.batch.ramp) == (6, 256, None)  # a layer's null deletes what lies below
    assert phase.budget_tokens == 50_000_000
    assert recipe.origins["phases.0.seq_len"] == "file layer.yaml:2"
    swapped = load_recipe(write(tmp_path, "extends: [layer.yaml, 1m]\nname: mine\n", "swapped.yaml"))
    assert (swapped.seed, swapped.phases[0].seq_len) == (21, 512)
    for wrong in ("[]", "[1m, {a: b}]", "{a: b}"):
        with pytest.raises(RecipeError, match="must be one name or a list of names"):
            load_recipe(write(tmp_path, f"extends: {wrong}\n", "wrong.yaml"))


def test_the_published_mixture_lies_over_any_size() -> None:
    for size in ("17m", "1b"):
        recipe = load_recipe(f"ettin-{size}")
        assert len(recipe.data.sources) == 18
        assert [source.paths for source in recipe.data.sources] == [()] * 18
        assert recipe.optimizer == load_recipe(size).optimizer


def test_a_circle_of_extends(tmp_path: Path) -> None:
    write(tmp_path, "extends: b.yaml\n", "a.yaml")
    write(tmp_path, "extends: a.yaml\n", "b.yaml")
    with pytest.raises(RecipeError, match="circle") as caught:
        load_recipe(str(tmp_path / "a.yaml"))
    assert "a.yaml -> b.yaml -> a.yaml" in str(caught.value)


def test_a_recipe_that_is_not_there() -> None:
    with pytest.raises(RecipeError, match="no recipe 'dmo' .did you mean 'demo'") as caught:
        load_recipe("dmo")
    assert "preset: " in str(caught.value)


def test_a_file_that_extends_nothing_there_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="asked for by file my.yaml"):
        load_recipe(write(tmp_path, "extends: nothing.yaml\n"))


def test_all_bad_keys_at_once_each_with_the_nearest(tmp_path: Path) -> None:
    text = """extends: demo
sed: 3
phases:
  pretrain:
    seqlen: 512
    batch: {token: 5}
optimizer: {learning_rate: 1}
data: {sources: [{name: a, knd: text, kind: text}]}
members: {encoder: {objektive: mlm}}
size: {layer: 3, layers: 4, width: 8, inner: 8, heads: 2}
"""
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, text))
    message = str(caught.value)
    for part in (
        "7 faults",
        "unknown key 'sed' (did you mean 'seed'?) (file my.yaml:2)",
        "unknown key 'phases.0.seqlen' (did you mean 'seq_len'?) (file my.yaml:5)",
        "unknown key 'phases.0.batch.token' (did you mean 'tokens'?) (file my.yaml:6)",
        "unknown key 'optimizer.learning_rate' (did you mean 'lr'?) (file my.yaml:7)",
        "unknown key 'data.sources.0.knd' (did you mean 'kind'?) (file my.yaml:8)",
        "unknown key 'members.encoder.objektive' (did you mean 'objective'?) (file my.yaml:9)",
        "unknown key 'size.layer' (did you mean 'layers'?) (file my.yaml:10)",
        "next: ",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("assignment", "parts"),
    [
        ("seed=abc", ["'seed'", "integer", "'abc'", "--set"]),
        ("size=17n", ["'size'", "did you mean '17m'", "'17n'"]),
        ("size={layers: 4}", ["'size.width' is missing", "'size.heads' is missing"]),
        ("size={layers: 5, width: 8, inner: 8, heads: 2}", ["layers - 1 must be a multiple of 3", "layers is 5"]),
        ("size={layers: 4, width: 9, inner: 8, heads: 2}", ["width 9"]),
        ("phases.0.budget_tokens=3.5", ["'phases.0.budget_tokens'", "300M", "3.5"]),
        ("phases.0.budget_tokens=0", ["'phases.0.budget_tokens'", "greater than 0"]),
        ("phases.0.budget_tokens=true", ["'phases.0.budget_tokens'", "True"]),
        ("phases.0.batch={sequences: 4}", ["exactly one of 'sequences' and 'tokens'"]),
        ("phases.0.batch.ramp={over_tokens: 4}", ["exactly one of 'from_sequences' and 'from_tokens'"]),
        ("phases.0.mixture.prose={epochs: 2}", ["'phases.0.mixture.prose'", "exactly one of 'share' and 'epochs'"]),
        ("phases.0.mask_frac=1.0", ["'phases.0.mask_frac'", "less than 1"]),
        ("phases.0.mask_frac={curve: linear, start: 0.3}", ["'phases.0.mask_frac'", "needs both"]),
        ("phases.0.mask_frac={curve: linear, start: 0.3, stop: 0.1}", ["unknown key 'phases.0.mask_frac.stop'"]),
        ("phases.0.mask_frac={curve: line, start: 0.3, end: 0.1}", ["'phases.0.mask_frac.curve'", "linear"]),
        ("phases.0.lr={curve: constant}", ["'decay_tokens' belongs to"]),
        ("phases.0.lr.decay_tokens=0", ["nothing leads there"]),
        ("optimizer.lr=", ["'optimizer.lr' is missing"]),
        ("phases=[]", ["phases: at least one"]),
        ("members={encoder: null, decoder: null}", ["members: at least one"]),
        ("members.encoder.phases=[extend]", ["members.encoder.phases: there is no phase 'extend'"]),
        ("members.x=clm", ["'members.x'", "'clm'"]),
        ("data.sources=[{name: a, kind: text}, {name: a, kind: text}]", ["the name 'a' stands twice"]),
        ("data.sources=[{name: 'a b', kind: text}]", ["'data.sources.0.name'", "'a b'"]),
        ("checkpoints.keep={last: null, every_tokens: 1M}", ["'checkpoints.keep'", "without it all stay"]),
        ("runtime.device=tpu", ["'runtime.device'", "'cuda'", "'tpu'"]),
    ],
)
def test_wrong_values_say_path_value_and_what_is_allowed(assignment: str, parts: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("demo", [assignment])
    for part in parts:
        assert part in str(caught.value)


def test_every_preset_ships_with_the_package() -> None:
    assert {path.suffix for path in PRESETS_FOLDER.iterdir()} <= {".yaml"}


@pytest.mark.parametrize(
    "key",
    [
        "unknown_key",
        "optimizer.unknown",
        "members.encoder.unknown",
        "members.nobody",
        "data.unknown",
        "data.sources.prose.unknown",
        "data.cleaning.unknown",
        "phases.pretrain.unknown",
        "phases.0.lr.unknown",
        "phases.pretrain.mixture.nobody",
        "evaluation.unknown",
        "extends",
    ],
)
def test_a_null_for_a_key_that_nothing_has_is_refused_and_not_passed_over(key: str, tmp_path: Path) -> None:
    for assignment in (f"{key}=", f"{key}=null"):
        with pytest.raises(RecipeError, match=rf"(unknown key|nothing to delete:) '{key}'.*--set"):
            load_recipe("demo", [assignment])
    if key not in ("extends", "phases.0.lr.unknown"):
        nested = reduce(lambda below, part: {part: below}, reversed(key.split(".")), None)
        recipe = write(tmp_path, json.dumps({"extends": "demo"} | nested))
        with pytest.raises(RecipeError, match=rf"(unknown key|nothing to delete:) '{key}'.*file my.yaml:1"):
            load_recipe(recipe)


def test_a_null_for_a_key_that_has_a_default_is_no_fault() -> None:
    load_recipe(
        "demo", ["phases.pretrain.batch.ramp=", "data.cleaning=", "optimizer.clip_norm=null", "members.encoder="]
    )
