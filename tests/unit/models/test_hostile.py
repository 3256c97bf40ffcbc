"""Models that somebody made to do harm are refused by every verb: nothing runs, nothing large is read."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from checkpointed_run import plan_for, small_tokenizer
from hub_folders import write_hub_folder

from seqpair.errors import UnsafeModelError
from seqpair.recipe.plan import Start
from seqpair.suite.starts import start_finder

VERBS = """
import json, re, sys
from seqpair.cli import app
codes = {}
for name, place in json.loads(sys.argv[1]).items():
    words = {"embed": ["embed", place, "texts.jsonl", "--out", "v.npy"], "eval": ["eval", place, "--data", "."],
             "convert": ["convert", place, "out", "--to", "decoder"], "train": ["train", place]}
    verb = name.partition(" ")[0]
    sys.argv[1:] = words[verb]
    try:
        app.main()
    except SystemExit as ended:
        codes[name] = ended.code
# Not getrusage: before it starts this program, a child has the size of the process that made it.
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
print(json.dumps([codes, peak]))
"""


class Runs:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The folders, by what they try, and the file that a success would make."""
    pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("hostile")
    marker = root / "executed"
    good = write_hub_folder(root / "good", "ModernBertForMaskedLM", small_tokenizer(), max_shard_size="40kB")

    def copy(name: str) -> Path:
        return Path(shutil.copytree(good, root / name))

    def without_weights(name: str) -> Path:
        folder = copy(name)
        for path in folder.glob("model*.safetensors*"):
            path.unlink()
        return folder

    places = {
        "pt": root / "ep0-ba5996-rank0.pt",
        "bin": without_weights("bin"),
        "protocol": without_weights("protocol"),
    }
    torch.save({"state": Runs(marker)}, places["pt"])
    torch.save({"decoder.bias": Runs(marker)}, places["bin"] / "pytorch_model.bin")
    (places["protocol"] / "pytorch_model.bin").write_bytes(pickle.dumps(Runs(marker)))
    places["pt inside"] = without_weights("inside")
    shutil.copy(places["pt"], places["pt inside"])
    code = f"import os\nos.system('touch {marker}')\nclass Model: ...\n"
    for name, file in (("code", "config.json"), ("tokenizer code", "tokenizer_config.json")):
        folder = places[name] = copy(name)
        (folder / "evil.py").write_text(code, encoding="utf-8")
        settings = json.loads((folder / file).read_text(encoding="utf-8"))
        (folder / file).write_text(json.dumps(settings | {"auto_map": {"AutoModel": "evil.Model"}}), encoding="utf-8")
    places["header"] = without_weights("header")
    with (places["header"] / "model.safetensors").open("wb") as handle:  # 100 MB of spaces, which JSON allows
        handle.write((100_000_000).to_bytes(8, "little") + b"{")
        handle.truncate(100_000_108)
    folder = places["outside"] = copy("outside")
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    shutil.copy(next(folder.glob("model-0*")), root / "shard.safetensors")
    index["weight_map"]["decoder.bias"] = "../shard.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    yield places
    assert not marker.exists()


def test_every_verb_refuses_them_with_exit_code_6_and_below_1_gb(hostile, tmp_path):
    (tmp_path / "texts.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    asked = {f"embed {name}": str(place) for name, place in hostile.items()}
    asked |= {
        f"{verb} {name}": str(hostile[name]) for verb in ("eval", "convert") for name in ("pt", "code", "outside")
    }
    done = subprocess.run(
        [sys.executable, "-c", VERBS, json.dumps(asked)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    codes, kilobytes = json.loads(done.stdout.splitlines()[-1])
    assert codes == dict.fromkeys(asked, 6), done.stderr
    assert kilobytes < 1_000_000
    assert "step5996" in done.stderr
    assert "jhu-clsp/ettin-encoder-17m@step5996" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_start_is_refused_as_well(hostile):
    for name, place in hostile.items():
        plan = plan_for("mlm", 512).model_copy(update={"start": Start(kind="folder", path=str(place))})
        with pytest.raises(UnsafeModelError):
            start_finder(SimpleNamespace(tokenizer=small_tokenizer()))(plan)
        assert name


def test_one_refused_model_does_not_stop_the_others(hostile, random_exports, seqpair, tmp_path):
    (tmp_path / "blimp").mkdir()
    row = json.dumps({"sentence_good": "It runs.", "sentence_bad": "It run.", "UID": "agreement", "pairID": "0"})
    (tmp_path / "blimp" / "agreement.jsonl").write_text(f"{row}\n", encoding="utf-8")
    names = [hostile["code"], random_exports["mlm"], "./nowhere"]
    code, out, err = seqpair(
        "eval", *names, "--suite", "blimp", "--data", tmp_path, "--out", tmp_path / "out", "--json"
    )
    assert code == 6, err
    assert "auto_map" in err
    assert "nowhere is left out" in err
    (report,) = json.loads(out)
    assert report["results"]
