"""Bad numbers, names and YAML: in recipes, in counts and in the options of the verbs."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
from refusals import refuses

from seqpair.errors import RecipeError
from seqpair.recipe.load import load_recipe
from seqpair.recipe.tree import plain_scalar, read_tree, strip
from seqpair.text import parse_count, printable

NUMBERS = [
    "seed",
    "budget",
    "optimizer.lr",
    "optimizer.weight_decay",
    "optimizer.beta1",
    "phases.0.seq_len",
    "phases.0.budget_tokens",
    "phases.0.rope_global_theta",
    "phases.0.mask_frac",
    "phases.0.batch.sequences",
    "phases.0.lr.end_frac",
    "phases.0.lr.warmup_tokens",
    "phases.0.mixture.notes.share",
    "checkpoints.every_tokens",
    "held_out.sequences",
    "held_out.mask_frac",
    "runtime.threads",
    "runtime.microbatch_tokens",
    "data.expected_mean_tokens",
    "data.tokenizer.train_vocab_size",
    "data.sources.0.held_out_frac",
    "model.window_tokens",
    "model.global_every",
    "model.norm_eps",
]
NO_NUMBERS = [
    ".inf",
    "-.inf",
    ".nan",
    "true",
    "false",
    "1e400",
    "-1",
    "1e30",
    "9" * 30,
    "9" * 5000,
    "[]",
    "{a: 1}",
    "many",
]


@pytest.fixture
def recipe(tiny_study) -> str:
    return str(tiny_study.recipe)


@pytest.mark.parametrize("key", NUMBERS)
def test_no_key_takes_what_is_no_number(recipe: str, key: str) -> None:
    for value in NO_NUMBERS:
        error = refuses(lambda value=value: load_recipe(recipe, [f"{key}={value}"]))
        assert key.replace(".0.", ".").rpartition(".")[2] in str(error), value
        assert len(str(error)) < 8000


SETTINGS = [
    "a",
    "=1",
    "a..b=1",
    "phases.9.seq_len=64",
    "phases.pretrian.seq_len=64",
    "seed=[1",
    "seed=\t1",
    "seed=!!python/object 1",
    "seed=*nowhere",
    "seed.deeper=1",
    "seed=1_",
    "size=big",
    "size={layers: .inf, width: 32, inner: 48, heads: 2}",
    "size={layers: true, width: 32, inner: 48, heads: 2}",
    "phases=[]",
    "members=null",
    "extends=x",
    "name=a b",
    "name=../up",
    "name=",
    f"name={'n' * 101}",
    "name=\u4e2d",
    "members.encoder.objective=[{mlm: .nan}, {clm: 0.5}]",
    "members.encoder.objective=[{mlm: true}]",
    "members.encoder.objective={hybrid: {causal_frac: .inf}}",
    "members.encoder.objective={hybrid: {causal_frac: true}}",
    "members.encoder.mask_frac=.nan",
    "members.encoder.mask_frac=true",
    "optimizer.lr=0",
    "optimizer.lr=1e9",
    "data.sources.1.split=words",
    "data.sources.1.quoting=none",
    "data.sources.0.quoting=single",
    "data.tokenizer.allow_lost_text=7",
    "data.sources.0.text_field=[]",
    "data.sources.0.text_field=['']",
    "data.sources.1.name=Notes",
    "members={a: {objective: mlm}, A: {objective: clm}}",
    "members={report: {objective: mlm}}",
    "members={encoder: {objective: mlm}, Sweeps: {objective: clm}}",
    "members={order: {objective: mlm}}",
]


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_that_means_nothing_is_one_error(recipe: str, setting: str) -> None:
    refuses(lambda: load_recipe(recipe, [setting]))


DEEP = "".join(f"{'  ' * level}k{level}:\n" for level in range(60))
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
YAML = {
    "a tab": "a:\n\tb: 1\n",
    "a tag": "a: !!python/object/apply:os.system ['true']\n",
    "a key twice": "a: 1\na: 2\n",
    "a list as key": "[1, 2]: 3\n",
    "an alias to itself": "a: &a [*a]\n",
    "an alias to nothing": "a: *b\n",
    "two documents": "a: 1\n---\nb: 2\n",
    "an open list": "a: [1, 2\n",
    "an open quote": 'a: "x\n',
    "a control character": "a: \x00\n",
    "deep mappings": DEEP,
    "deep lists": "a: " + "[" * 1000 + "]" * 1000 + "\n",
    "aliases of aliases": BOMB,
    "too long": "a: " + "x" * (1 << 22) + "\n",
    "a directive": "%YAML 99999999999.1\n---\na: 1\n",
    "an escape": 'a: "\\UFFFFFFFF"\n',
}


@pytest.mark.parametrize("name", YAML)
def test_yaml_that_is_none_or_too_much_is_one_error(name: str) -> None:
    refuses(lambda: read_tree(YAML[name], "file x.yaml"), "x.yaml")


def test_yaml_that_is_right_stays_what_it_was() -> None:
    text = "a: 1_000\nb: 3e-3\nc: 1:15\nd: no\ne: &e {x: .5}\nf: [*e, *e]\ng: +1.\nh: -1_0.5_0e+2\n"
    assert strip(read_tree(text, "x")) == {
        **{"a": 1000, "b": 0.003, "c": "1:15", "d": "no", "e": {"x": 0.5}, "f": [{"x": 0.5}] * 2},
        **{"g": 1.0, "h": -1050.0},
    }
    for word in ("1_", "_1", "1__0", "1e", "-", ".", "+", "1_.5", "9" * 401):
        assert plain_scalar(word) == word


COUNTS = [
    *("", "x", "-1", "1.5", "1_", "_1", "1__0", "1e", "1e-3", "inf", "nan"),
    *("1e19", "1e999999999", "9" * 30, "9" * 5000, "2T" * 40),
]


@pytest.mark.parametrize("value", [*COUNTS, True, None, math.inf, math.nan, -1, 1.5, 10**30, 10**5000], ids=range(24))
def test_a_count_is_a_whole_number_up_to_a_bound(value: object) -> None:
    refuses(lambda: parse_count(value), "a count was expected", "10^18")  # type: ignore[arg-type]


FILES = {
    "not UTF-8": b"name: caf\xe9\n",
    "empty": b"",
    "a list": b"- a\n",
    "a word": b"word\n",
    "null bytes": b"\x00\x00",
    "UTF-16": "name: x\n".encode("utf-16"),
    "itself": b"extends: r.yaml\n",
    "nothing to extend": b"extends: nowhere.yaml\n",
    "extends a number list": b"extends: [1, {a: 2}]\n",
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_recipe_is_one_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "r.yaml").write_bytes(FILES[name])
    assert isinstance(refuses(lambda: load_recipe(str(tmp_path / "r.yaml"))), RecipeError)


OPTIONS: list[tuple[str, ...]] = [
    *(("power", "--items", "100", "--difference", value) for value in ("nan", "inf", "-1", "2", "x", "")),
    *(("power", "--items", "100", "--accuracy", value) for value in ("nan", "inf", "-1", "2", "x")),
    *(("power", "--items", "100", "--seed-sd", value) for value in ("nan", "inf", "-1", "x")),
    *(("power", "--items", value) for value in ("0", "1", "-1", "nan", "1e3", "")),
    *(("bench", "--seconds", value) for value in ("nan", "inf", "-1", "x", "")),
    *(("prepare", "RECIPE", "--workers", value) for value in ("0", "-1", "x", "1e3", "9" * 20, "")),
    *(("prepare", "RECIPE", "--shard", value) for value in ("", "0/2", "2/1", "1/0", "-1/2", "1/2/3", "x", "1.5/2")),
    *(("plan", "RECIPE", "--count", value) for value in ("0", "-1", "x", "9" * 20)),
    *(("plan", "RECIPE", "--members", value) for value in ("", ",", "a,,b", "nobody", " ")),
    *(("run", "RECIPE", "--members", value) for value in ("", ",", "nobody")),
    *(("train", "RECIPE", "--member", value) for value in ("", "nobody")),
    *(("order", "RECIPE", "--step", value) for value in ("x", "1.5", "")),
    ("order", "RECIPE"),
    ("order", "RECIPE", "--step", "1", "--source", "notes"),
    ("order", "RECIPE", "--step", "1", "--ignore-case"),
    ("order", "RECIPE", "--document", "note-1", "--all"),
    ("tokenizer", "train", "RECIPE", "--out", "t", "--vocab-size", "1e9"),
    ("tokenizer", "train", "--from", "a.txt", "--from", "./a.txt", "--out", "t"),
    ("init", "a\nb.yaml", "--text", "a.txt"),
    ("init", "r.yaml", "--text", "a.txt", "--text", "./a.txt"),
    ("order", "RECIPE", "--step", "1", "--member", ""),
    ("plan", "RECIPE", "--member", ""),
    ("plan", "RECIPE", "--device", " "),
    ("verify", "RECIPE", "--member", ""),
    ("power", "--items", "9" * 20),
    ("power", "--items", "100", "--difference", "0"),
    ("power", "--items", "100", "--seeds", "9" * 9),
    ("data", "merge", "RECIPE", "--from", "nowhere"),
    ("sweep", "RECIPE", "--over", "seed=1,2", "--set", "seed=3"),
    ("sweep", "RECIPE", "--variants", "/dev/zero"),
    ("report", "RECIPE", "--questions", "/dev/zero"),
    ("order", "RECIPE", "--step", "1", "--text", "x"),
    ("fill", "./nowhere", "half \udce9"),
    ("generate", "./nowhere", "half \udce9"),
    ("generate", "./nowhere", "x", "--temperature", "nan"),
    ("generate", "./nowhere", "x", "--temperature", "-1"),
    ("generate", "./nowhere", "x", "--temperature", "1", "--top-p", "nan"),
    ("generate", "./nowhere", "x", "--temperature", "1", "--top-k", "0"),
    ("generate", "./nowhere", "x", "--batch-rows", "0"),
    ("generate", "./nowhere", "x", "--temperature", "1", "--seed", "-1"),
    ("generate", "./nowhere", "x", "--temperature", "1", "--seed", "9" * 20),
    ("search", "./nowhere", "-", "-"),
    ("search", "./nowhere", "/dev/zero", "a.txt"),
    ("embed", "./nowhere", "x.ids.json", "--out", "x.npy", "--overwrite"),
    ("embed", "./nowhere", "/dev/zero", "--out", "x.npy"),
    ("eval", "./nowhere", "--seeds", "9" * 9),
    ("finetune", "./nowhere", "--data", "a.tsv", "--seeds", "9" * 9),
    ("embed", "./nowhere", "caf\udce9.jsonl", "--out", "o.npy"),
    ("finetune", "./nowhere", "--data", "caf\udce9.csv"),
    ("plan", "caf\udce9.yaml"),
    ("plan", ""),
    ("plan", "/dev/zero"),
    ("plan", "RECIPE", "--set", "phases.0.budget_tokens=24T"),
    ("plan", "RECIPE", "--set", "phases.0.budget_tokens=1B", "--set", "held_out.every_tokens=1"),
    ("export", "caf\udce9"),
    ("eval", "./caf\udce9"),
    ("diff", "", ""),
    ("release", "RECIPE", "out", "--every", "0"),
    *(("release", "RECIPE", "out", word, "a\nb: c") for word in ("--license", "--language", "--owner")),
    ("release", "RECIPE", "out", "--owner", "../me"),
    ("publish", "nowhere", "--to", "../me"),
    ("publish", "nowhere", "--to", ""),
    ("embed", "./nowhere", "a.jsonl", "--out", "."),
    ("embed", "./nowhere", "a.jsonl", "--out", "o.txt"),
    ("watch", "RECIPE", "--host", ""),
    ("init", "r.yaml", "--text", "/dev/null"),
    ("tokenizer", "train", "--from", "/dev/null", "--out", "t"),
    ("tokenizer", "audit", "./nowhere", "--from", "/dev/null"),
    ("eval", "./nowhere", "--tasks", sys.executable),
]


@pytest.mark.parametrize("words", OPTIONS, ids=range(len(OPTIONS)))
def test_an_option_that_means_nothing_is_one_error(seqpair, recipe: str, words: tuple[str, ...]) -> None:
    code, out, err = seqpair(*(recipe if word == "RECIPE" else word for word in words))
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    assert "rror" in err
    assert all(letter.isprintable() or letter in "\n\t" for letter in err)


@pytest.mark.parametrize("letter", ["\x1b", "\x07", "\x08", "\r", "\x7f", "\x9b", "\u202e", "\u2066", "\ud83d", "\x00"])
def test_control_characters_never_reach_the_terminal(letter: str) -> None:
    assert letter not in printable(f"a{letter}b")
    assert printable("plain\ttext\n\u4e2d \U0001f642") == "plain\ttext\n\u4e2d \U0001f642"
