"""Publishing to a stand-in of the Hub: what arrives, what a fault on the way does, and what users do with it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_server import running_hub
from released_study import write_random_release
from suite_runs import write_suite_data

from seqpair.errors import PublishError
from seqpair.hub.publish import HubAccess, planned_uploads, publish_release
from seqpair.suite.verify_place import verify_published

REVISIONS = ["main", "step1", "step2", "step3"]
# The Hub's library uploads in a way that its own HTTP client has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")
SOURCE = Path(__file__).resolve().parents[3] / "src"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A stand-in of the Hub that this process uses."""
    constants = pytest.importorskip("huggingface_hub.constants")
    with running_hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "x")
        yield server


@pytest.fixture
def release(tmp_path):
    return write_random_release(tmp_path / "release", 4)


class Waits(list):
    """Notes how long was waited for, and waits for nothing."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def published(hub, release: Path) -> bool:
    """Return whether every revision on the stand-in has the files of the release."""
    for name in REVISIONS:
        folder = release / "encoder" / name
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        tree = dict(hub.trees["lab/tiny-encoder"][name])
        del tree[".gitattributes"]
        if tree != files:
            return False
    return set(hub.trees["lab/tiny-encoder"]) == set(REVISIONS)


def test_a_release_is_published_whole_and_repeating_it_uploads_nothing(hub, release):
    hub.trees["lab/tiny-encoder"] = {"main": {".gitattributes": b"", "old.bin": b"left over"}}
    lines = list(publish_release(planned_uploads(release, "lab")))
    assert len(lines) == 5
    assert published(hub, release)
    assert "README.md" in hub.trees["datasets/lab/tiny-order"]["main"]
    before = len(hub.requests)
    assert all(line.endswith("there already") for line in publish_release(planned_uploads(release, "lab")))
    assert not any(re.search("/commit/|PUT", line) for line in hub.requests[before:])


@pytest.mark.parametrize(
    "fault",
    [
        ("POST .*/commit/step2", 500),
        ("POST .*/commit/step2", 429),
        ("POST .*/commit/step2", 0),
        ("GET .*/tree/step2", 503),
        ("GET .*/refs", 0),
        ("POST .*/branch/step3", 500),
        ("POST .*/repos/create", 429),
    ],
    ids=str,
)
def test_an_upload_goes_on_through_a_fault(hub, release, fault):
    waits = Waits()
    hub.faults = [fault]
    list(publish_release(planned_uploads(release, "lab"), access=HubAccess(waits)))
    assert published(hub, release)
    assert hub.faults == []


def test_a_rate_limit_is_waited_for_as_long_as_it_takes(hub, release):
    waits = Waits()
    hub.faults = [("POST .*/commit/step1", 429)] * 20
    list(publish_release(planned_uploads(release, "lab"), access=HubAccess(waits)))
    assert published(hub, release)
    assert waits == [56.0] * 20


def test_a_hub_that_does_not_recover_ends_the_command_and_the_next_one_goes_on(hub, release):
    waits = Waits()
    hub.faults = [("POST .*/commit/step2", 500)] * 6
    with pytest.raises(PublishError, match="uploading lab/tiny-encoder@step2") as error:
        list(publish_release(planned_uploads(release, "lab"), access=HubAccess(waits)))
    assert "repeat the command" in str(error.value)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0]
    lines = list(publish_release(planned_uploads(release, "lab")))
    assert [line.split(": ")[1] for line in lines][:1] == ["there already"]
    assert published(hub, release)


def test_a_refusal_is_no_reason_to_try_again(hub, release):
    waits = Waits()
    hub.faults = [("POST .*/commit/step1", 403)]
    with pytest.raises(PublishError, match="did not allow"):
        list(publish_release(planned_uploads(release, "lab"), access=HubAccess(waits)))
    assert waits == []


def test_weights_that_arrive_changed_are_noticed_before_the_next_revision(hub, release, monkeypatch):
    weights = (release / "encoder" / "step2" / "model.safetensors").read_bytes()
    own = dict.__setitem__

    class Store(dict):
        def __setitem__(self, key, value):
            own(self, key, value[:-1] + b"?" if value == weights else value)

    hub.blobs = Store()
    with pytest.raises(PublishError, match="files other than those uploaded to lab/tiny-encoder@step2") as error:
        list(publish_release(planned_uploads(release, "lab")))
    assert "model.safetensors" in str(error.value)
    assert "step3" not in hub.trees["lab/tiny-encoder"]


def test_a_dry_run_lists_everything_and_makes_no_request(hub, release, seqpair):
    code, out, _ = seqpair("publish", release, "--to", "lab", "--dry-run", "--json")
    assert code == 0
    rows = json.loads(out)
    assert [row["revision"] for row in rows] == ["step1", "step2", "step3", "main", "main"]
    assert {row["repository"] for row in rows} == {"lab/tiny-encoder", "lab/tiny-order"}
    size = sum(path.stat().st_size for path in (release / "encoder" / "step1").iterdir())
    assert rows[0]["bytes"] == size
    assert hub.requests == []


def test_a_damaged_release_is_not_published(hub, release):
    (release / "encoder" / "step2" / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(PublishError, match="step2 is damaged") as error:
        list(publish_release(planned_uploads(release, "lab")))
    assert "config.json" in str(error.value)
    assert "step2" not in hub.trees["lab/tiny-encoder"]


def test_what_is_no_complete_release_of_this_owner_is_refused(release, tmp_path):
    with pytest.raises(PublishError, match="not a release"):
        planned_uploads(tmp_path / "encoder", "lab")
    contents = json.loads((release / "release.json").read_text(encoding="utf-8"))
    (release / "release.json").write_text(json.dumps(contents | {"owner": "others"}), encoding="utf-8")
    with pytest.raises(PublishError, match="another owner"):
        planned_uploads(release, "lab")
    contents["members"]["encoder"]["revisions"]["step9"] = {}
    (release / "release.json").write_text(json.dumps(contents), encoding="utf-8")
    with pytest.raises(PublishError, match="not complete"):
        planned_uploads(release, "lab")


def put_release(hub, release: Path) -> None:
    for folder in (release / "encoder").iterdir():
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        hub.put("lab/tiny-encoder", folder.name, files)


@pytest.mark.parametrize("revisions", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_many_revisions_are_verified_in_ten_seconds_without_a_weights_file(hub, tmp_path, revisions):
    put_release(hub, write_random_release(tmp_path / "many", revisions))
    began = time.monotonic()
    done = verify_published("lab/tiny-encoder")
    assert time.monotonic() - began < 10
    assert done.faults == []
    assert sum(check.part == "hashes" for check in done.checks) == revisions
    assert not any("safetensors" in line for line in hub.requests)


def test_faults_on_the_hub_are_found_in_its_listings(hub, release, seqpair):
    put_release(hub, release)
    assert seqpair("verify", "lab/tiny-encoder")[0] == 0
    trees = hub.trees["lab/tiny-encoder"]
    trees["step2"]["model.safetensors"] = trees["step1"]["model.safetensors"]
    del trees["step3"]
    code, _, messages = seqpair("verify", "lab/tiny-encoder")
    assert code == 3
    assert "hashes step2: model.safetensors: sha256" in messages
    assert "encoder@step3 is missing" in messages


def test_a_repository_that_is_not_there_is_an_error_and_no_fault(hub, seqpair):
    code, _, messages = seqpair("verify", "lab/nothing")
    assert code == 2
    assert "the revisions of lab/nothing" in messages


# --- slow: what users do with a published release ---

USE_IT = """\
import json, re, sys
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from seqpair.checkpoint.store import load_checkpoint
from seqpair.hub.native import NativeModel
from seqpair.nn.rope import RopeBases

release, runs = Path(sys.argv[1]), Path(sys.argv[2])
contents = json.loads((release / "release.json").read_text())
compared = 0
for member, value in contents["members"].items():
    name = f"lab/{value['repository']}"
    for revision, said in value["revisions"].items():
        loaded = load_checkpoint(runs / member / "checkpoints" / said["checkpoint"], model_only=True)
        plan = loaded.manifest.plan
        phase = plan.phase(loaded.manifest.phase)
        bases = RopeBases(phase.rope_global_theta, phase.rope_local_theta)
        native = NativeModel(plan.model, loaded.model, plan.derived.direction, bases)
        auto = AutoModelForCausalLM if plan.derived.direction == "causal" else AutoModelForMaskedLM
        model = auto.from_pretrained(name, revision=revision, dtype=torch.float32).eval()
        ids = AutoTokenizer.from_pretrained(name, revision=revision)("A river under the bright stone.")["input_ids"]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0]
        assert (logits - native.logits([torch.tensor(ids).numpy()])[0]).abs().max() <= 1e-4, (name, revision)
        compared += 1
        card = Path(snapshot_download(name, revision=revision)) / "README.md"
        for code in re.findall(r"^```python\\n(.*?)^```", card.read_text(), re.MULTILINE | re.DOTALL):
            exec(compile(code, f"{name}@{revision}", "exec"), {})

from sentence_transformers import SentenceTransformer

for member, value in contents["members"].items():
    first = next(iter(value["revisions"]))
    vectors = SentenceTransformer(f"lab/{value['repository']}", revision=first).encode(["one text", "another"])
    assert vectors.shape == (2, 32)
print(compared, "revisions compared")
"""


@pytest.mark.slow
def test_every_revision_of_a_published_release_is_the_checkpoint_that_users_load(
    hub, released, four_members, tmp_path, seqpair
):
    code, _, messages = seqpair("publish", released, "--to", "lab")
    assert code == 0, messages
    for name in ("tiny-encoder", "tiny-decoder-from-encoder"):
        place = f"lab/{name}"
        assert seqpair("verify", place, "--deep", "--study", four_members.recipe)[0] == 0
    hub_settings = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "x", "HF_HOME": str(tmp_path / "hf")}
    environment = os.environ | hub_settings | {"PYTHONPATH": str(SOURCE)}
    words = [sys.executable, "-c", USE_IT, str(released), str(four_members.runs)]
    used = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert used.returncode == 0, used.stderr[-3000:]
    assert "10 revisions compared" in used.stdout
    data = write_suite_data(tmp_path / "data")
    words = [sys.executable, "-m", "seqpair", "eval", "lab/tiny-encoder@step2", "--suite", "blimp", "--json"]
    words += ["--data", str(data), "--out", str(tmp_path / "evaluations")]
    evaluated = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert evaluated.returncode == 0, evaluated.stderr[-3000:]
    assert json.loads(evaluated.stdout)
    # The shell blocks of the cards: `seqpair verify OWNER/NAME`.
    for card in released.glob("*/main/README.md"):
        (block,) = re.findall(r"^```bash\n(.*?)^```", card.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        assert seqpair(*block.split()[1:])[0] == 0


@pytest.mark.slow
def test_every_block_of_the_page_on_releases_runs(hub, four_members, tmp_path, monkeypatch, seqpair):
    monkeypatch.chdir(tmp_path)
    page = (SOURCE.parent / "docs" / "release.md").read_text(encoding="utf-8").replace("my-lab/demo-", "my-lab/tiny-")
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert [language for language, _ in blocks] == ["bash", "python", "python"]
    for language, block in blocks:
        if language == "python":
            exec(compile(block, "release.md", "exec"), {})
            continue
        for line in block.splitlines():
            words = [str(four_members.recipe) if word == "demo" else word for word in line.split()[1:]]
            code, _, messages = seqpair(*words)
            assert code == 0, (line, messages)
