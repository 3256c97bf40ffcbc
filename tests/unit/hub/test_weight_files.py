"""Files of weights: the same bytes for the same weights, and the metadata beside them."""

from __future__ import annotations

import hashlib

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from seqpair.hub.weight_files import weights_bytes

TENSORS = {"b": torch.arange(6, dtype=torch.float32).reshape(2, 3), "a": torch.ones(5, dtype=torch.bfloat16)}


def test_the_same_weights_and_metadata_give_the_same_bytes(tmp_path):
    """The library alone writes two keys or more in another order each time: of 20 files some would differ."""
    about = {"study": "s", "member": "m", "checkpoint": "step1", "plan_digest": "0" * 64}
    orders = [dict(sorted(about.items(), reverse=number % 2 == 0)) for number in range(20)]
    written = {weights_bytes(TENSORS, order) for order in orders}
    assert len(written) == 1
    path = tmp_path / "model.safetensors"
    path.write_bytes(written.pop())
    read = load_file(path)
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[name], values) and read[name].dtype == values.dtype for name, values in TENSORS.items())
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", **about}


def test_metadata_changes_the_file_and_not_the_tensors(tmp_path):
    first, second = weights_bytes(TENSORS, {"member": "a"}), weights_bytes(TENSORS, {"member": "b\u00e9"})
    assert hashlib.sha256(first).digest() != hashlib.sha256(second).digest()
    (tmp_path / "x.safetensors").write_bytes(second)
    assert torch.equal(load_file(tmp_path / "x.safetensors")["b"], TENSORS["b"])
