"""Exports meet what users do wrong: each with its error, and nothing is lost."""

from __future__ import annotations

import errno
import importlib
import json
import os
import shutil
import types

import pytest
from checkpointed_run import real_texts, small_tokenizer, write_run

from seqpair.data.tokenizer.tokenizer import train_tokenizer
from seqpair.errors import CheckpointError, DiskFullError, ExportError
from seqpair.hub.export import checkpoint_at, export_checkpoint, read_export_record
from seqpair.hub.library import require_transformers
from seqpair.hub.verify import texts_to_check
from seqpair.recipe.data_spec import TokenizerSpec


@pytest.fixture
def checkpoint(tmp_path):
    return write_run(tmp_path / "run", "clm")


def test_a_folder_of_somebody_else_is_never_touched(checkpoint, tmp_path):
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ExportError, match="exists and is not an export"):
            export_checkpoint(checkpoint, out, overwrite=overwrite)
    assert (out / "chapter.txt").read_text() == "mine"


def test_an_earlier_export_is_replaced_only_when_asked(checkpoint, tmp_path):
    out = tmp_path / "export"
    export_checkpoint(checkpoint, out, real_texts()[:2])
    (out / "notes.txt").write_text("the user's own")
    with pytest.raises(ExportError, match="--overwrite"):
        export_checkpoint(checkpoint, out)
    export_checkpoint(checkpoint, out, real_texts()[:2], overwrite=True)
    assert (out / "notes.txt").read_text() == "the user's own"
    # A process killed between its two renames, and then one killed while it removed what lay aside.
    aside = tmp_path / ".partial-earlier-export"
    out.rename(aside)
    with pytest.raises(ExportError, match="--overwrite"):
        export_checkpoint(checkpoint, out)
    assert (out / "notes.txt").read_text() == "the user's own"
    aside.mkdir()
    (aside / "config.json").write_text("ours")
    with pytest.raises(ExportError, match="--overwrite"):
        export_checkpoint(checkpoint, out)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".partial")] == []


def test_without_texts_the_package_itself_is_the_text(checkpoint, tmp_path):
    report = export_checkpoint(checkpoint, tmp_path / "export")
    assert report.verification.longest_tokens == 96
    card = (tmp_path / "export" / "README.md").read_text()
    assert "ModernBertDecoderForCausalLM" in card
    assert "AutoModelForCausalLM" in card


def test_a_missing_tokenizer_is_named(checkpoint, tmp_path):
    shutil.rmtree(tmp_path / "run" / "tokenizer")
    with pytest.raises(CheckpointError, match=r"(?s)tokenizer is missing.*run/tokenizer"):
        export_checkpoint(checkpoint, tmp_path / "export")


def test_another_tokenizer_is_refused(checkpoint, tmp_path):
    other = train_tokenizer(real_texts()[::-1][:3], TokenizerSpec(train_vocab_size=500))
    other.save(tmp_path / "run" / "tokenizer")
    with pytest.raises(CheckpointError, match="not the one that the checkpoint was trained with"):
        export_checkpoint(checkpoint, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_a_damaged_checkpoint_is_refused(checkpoint, tmp_path):
    weights = next(path for path in checkpoint.iterdir() if path.name.startswith("model"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="damaged"):
        export_checkpoint(checkpoint, tmp_path / "export")


def test_a_run_without_checkpoints_says_so(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint that can be used"):
        checkpoint_at(tmp_path)
    with pytest.raises(CheckpointError, match="there is no checkpoint here"):
        export_checkpoint(tmp_path / "nothing", tmp_path / "export")


def test_a_full_disk_leaves_nothing_behind(checkpoint, tmp_path, monkeypatch):
    honest = os.fsync

    def full(descriptor):
        if os.fstat(descriptor).st_size > 50_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        honest(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match="export"):
        export_checkpoint(checkpoint, tmp_path / "export")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_without_transformers_the_extra_is_named(checkpoint, tmp_path, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ExportError, match=r"(?s)exporting needs.*seqpair\[hub\]"):
        export_checkpoint(checkpoint, tmp_path / "export")


def test_another_major_version_is_refused(monkeypatch):
    monkeypatch.setattr(importlib, "import_module", lambda name: types.SimpleNamespace(__version__="4.57.6"))
    with pytest.raises(ExportError, match=r"4\.57\.6"):
        require_transformers(ExportError, "exporting")


def test_a_folder_that_is_no_export_has_no_record(tmp_path):
    with pytest.raises(ExportError, match="not an export of seqpair"):
        read_export_record(tmp_path)


def test_short_texts_are_joined_and_repeated_until_the_window_is_passed():
    tokenizer = small_tokenizer()
    texts = texts_to_check(["one", "two"], tokenizer, 200)
    assert len(tokenizer.encode([texts[0]])[0]) >= 200
    assert "" in texts


def test_the_tokenizer_configuration_names_every_role(checkpoint, tmp_path):
    export_checkpoint(checkpoint, tmp_path / "export", real_texts()[:1])
    config = json.loads((tmp_path / "export" / "tokenizer_config.json").read_text())
    assert config["mask_token"] == "[MASK]"
    assert config["eos_token"] == config["sep_token"] == "[SEP]"
    assert config["padding_side"] == "left"
