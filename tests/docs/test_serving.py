"""Every block of docs/serving.md runs here, in order and in one folder, or is skipped with the reason."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpointed_run import real_texts, write_run

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / "docs" / "serving.md").read_text(), re.MULTILINE | re.DOTALL)
NEEDS = {
    "--format onnx": ("onnx", "onnxruntime", "onnxscript", "gguf"),
    "InferenceSession": ("onnxruntime",),
    "from peft": ("peft",),
    "transformers serve": ("fastapi", "uvicorn", "openai"),
    "SentenceTransformer": ("sentence_transformers",),
    "lm_eval": ("lm_eval", "accelerate"),
    "import mteb": ("mteb",),
    "node-llama-cpp": ("node:node-llama-cpp", "gguf"),
    "@huggingface/transformers": ("node:@huggingface/transformers", "onnxruntime"),
}
"""For a part of a block the Python modules and node packages without which it cannot run."""
PROGRAMS = {
    "python": "",
    "seqpair": "-m seqpair",
    "lm_eval": "-m lm_eval",
    "transformers": "-c 'from transformers.cli.transformers import main; main()'",
}
TASK = """\
task: toy_task
output_type: multiple_choice
doc_to_text: "{{query}}"
doc_to_choice: "{{choices}}"
doc_to_target: 0
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
dataset_path: json
test_split: test
"""
# The block's own task is fetched from the hub; the same call gets one of mteb's tasks for tests.
MOCK_TASK = (
    "import mteb\nfrom mteb.mocks.mock_tasks import MockSTSTask\nmteb.get_tasks = lambda tasks: [MockSTSTask()]\n"
)


def node_modules():
    places = [Path(part) for part in os.environ.get("NODE_PATH", "").split(os.pathsep) if part]
    return next((place for place in places if place.is_dir()), None)


def missing(body):
    """Return what a block needs and this machine does not have."""
    found = []
    for part, names in NEEDS.items():
        for name in names if part in body else ():
            kind, _, package = name.rpartition(":")
            if kind == "node":
                there = (
                    shutil.which("node") and (node_modules() or ROOT) != ROOT and (node_modules() / package).is_dir()
                )
            else:
                there = importlib.util.find_spec(name) is not None
            found += [] if there else [f"{package} (a folder that NODE_PATH names)" if kind else name]
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with two members' runs, their exports, the page's programs, and a task for lm-eval."""
    from seqpair.hub.export import export_checkpoint

    folder = tmp_path_factory.mktemp("serving")
    for member, objective in (("encoder", "mlm"), ("decoder", "clm")):
        run = write_run(folder / "study" / "runs" / "tiny" / member, objective)
        export_checkpoint(run, folder / "served" / member, real_texts()[:2])
    (folder / "bin").mkdir()
    for name, words in PROGRAMS.items():
        (folder / "bin" / name).write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n')
        (folder / "bin" / name).chmod(0o755)
    (folder / "tasks").mkdir()
    rows = [{"query": "Return", "choices": [" the list", " none"]}, {"query": "def", "choices": [" size", " x y"]}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "tasks" / "toy_task.yaml").write_text(
        f"{TASK}dataset_kwargs:\n  cache_dir: {folder}/cache\n  data_files: {{test: {folder}/rows.jsonl}}\n"
    )
    if node_modules():
        (folder / "node_modules").symlink_to(node_modules())
    return folder


def run_block(place, language, body):
    """Run a block as its reader does, and return what it prints."""
    if "import mteb" in body:
        body = MOCK_TASK + body
    if language == "sh" and "--format onnx" in body:
        shutil.rmtree(place / "served")
    file = place / {"sh": "block.sh", "python": "block.py", "js": "block.mjs"}[language]
    file.write_text(body)
    words = {"sh": ["bash", "-e", file], "python": [sys.executable, "-W", "ignore", file], "js": ["node", file]}[
        language
    ]
    environment = os.environ | {
        "PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(place / "home"),
    }
    done = subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def vector_of(place, text):
    from seqpair.models.embed import embed_texts
    from seqpair.models.open import open_model

    return embed_texts(open_model(place / "served" / "encoder"), [text], "mean", normalise=True).vectors[0]


def check_shell(place, shown):
    assert np.load(place / "vectors.npy").shape == (2, 32)
    assert "Where is the garden?" in shown


def check_served(place, shown):
    """Loopback gives the greedy text that seqpair gives."""
    from seqpair.models.generate import continue_texts
    from seqpair.models.open import open_model

    (ours,) = continue_texts(open_model(place / "served" / "decoder"), ["The river"], 8)
    assert len(ours.ids) > 0
    assert json.loads(shown)["choices"][0]["text"] == ours.text


def check_llama(place, shown):
    vector = np.array(json.loads(shown.splitlines()[-1]))  # llama.cpp's warnings stand before it
    assert 1 - vector @ vector_of(place, "The river opened.") / np.linalg.norm(vector) < 1e-5


def check_browser(place, shown):
    first, second = shown.splitlines()[-2:]
    vector = np.array(json.loads(first))
    assert 1 - vector @ vector_of(place, "The river opened.") / np.linalg.norm(vector) < 1e-5
    assert json.loads(second)[2] == 512


def check_harness(place, shown):
    assert shown.count("|toy_task|") == 2


CHECKS = {
    "seqpair embed": check_shell,
    "transformers serve": check_served,
    "node-llama-cpp": check_llama,
    "@huggingface/transformers": check_browser,
    "lm_eval": check_harness,
    "encode(": lambda _, shown: shown == "(2, 32)\n" or pytest.fail(shown),
    "InferenceSession": lambda _, shown: re.match(r"\(2, \d+, 32\)\n", shown) or pytest.fail(shown),
    "import mteb": lambda _, shown: "main_score=" in shown or pytest.fail(shown),
    "from peft": lambda _, shown: "trainable params" in shown or pytest.fail(shown),
}


def test_every_block_is_of_a_kind_that_is_run_here():
    assert {language for language, _ in BLOCKS} == {"sh", "python", "js"}
    text = "".join(body for _, body in BLOCKS)
    assert [part for part in (*NEEDS, *CHECKS) if part not in text] == []


@pytest.mark.slow
@pytest.mark.parametrize(("language", "body"), BLOCKS, ids=[body.splitlines()[0][:50] for _, body in BLOCKS])
def test_a_block_runs(place, language, body):
    if absent := missing(body):
        pytest.skip(f"not here: {', '.join(absent)}")
    shown = run_block(place, language, body)
    for part, check in CHECKS.items():
        if part in body:
            check(place, shown)
