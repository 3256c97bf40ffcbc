"""What compiling and float8 need of a machine; the float8 copy shares its parameters with its module."""

import importlib
import importlib.util
import shutil

import pytest
import torch
from torch import nn

from seqpair.distributed import acceleration
from seqpair.distributed.acceleration import (
    compile_words,
    float8_copy,
    float8_words,
    require_float8,
    should_compile,
    should_fuse_loss,
)
from seqpair.errors import SeqpairError

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


def test_auto_compiles_on_cuda_with_triton_and_nowhere_else(monkeypatch):
    monkeypatch.setattr(acceleration.importlib.util, "find_spec", lambda name: object())
    assert [should_compile("auto", device) for device in (CPU, CUDA, MPS)] == [False, True, False]
    assert not should_compile("off", CUDA)
    monkeypatch.setattr(acceleration.importlib.util, "find_spec", lambda name: None)
    assert not should_compile("auto", CUDA)
    with pytest.raises(SeqpairError, match="cuda without triton"):
        should_compile("on", CUDA)


def test_the_loss_runs_in_triton_kernels_on_cuda_alone(monkeypatch):
    monkeypatch.setattr(acceleration.importlib.util, "find_spec", lambda name: object())
    assert [should_fuse_loss(kind, CUDA) for kind in ("torch", "triton")] == [False, True]
    for device in (CPU, MPS):
        assert not should_fuse_loss("torch", device)
        with pytest.raises(SeqpairError, match="runtime.loss: triton"):
            should_fuse_loss("triton", device)
    monkeypatch.setattr(acceleration.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SeqpairError, match="cuda without triton"):
        should_fuse_loss("triton", CUDA)


def test_a_cpu_without_a_compiler_and_mps_are_refused(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/cl" if name == "cl" else None)
    assert should_compile("on", CPU)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SeqpairError, match=r"a C\+\+ compiler"):
        should_compile("on", CPU)
    with pytest.raises(SeqpairError, match="runtime.compile"):
        should_compile("on", MPS)


def test_the_doctor_says_what_auto_does_and_what_is_missing(monkeypatch):
    monkeypatch.setattr(acceleration.importlib.util, "find_spec", lambda name: object())
    assert compile_words(CUDA).startswith("compiled")
    assert compile_words(MPS).startswith("not compiled; it would need")
    monkeypatch.setattr(acceleration.importlib.util, "find_spec", lambda name: None)
    assert compile_words(CUDA) == "not compiled; it would need triton"


CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))
needs_torchao = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")


@pytest.fixture
def machine(monkeypatch):
    """A machine with a GPU of this compute capability, with or without torchao."""

    def make(capability=(9, 0), hip=None, torchao=True):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
        monkeypatch.setattr(torch.version, "hip", hip)
        monkeypatch.setattr(acceleration.importlib.util, "find_spec", lambda name: object() if torchao else None)

    return make


def refusal(scaling, device, **more) -> str:
    with pytest.raises(SeqpairError) as caught:
        require_float8(scaling, device, **more)
    return str(caught.value)


def test_it_needs_a_gpu_that_has_the_products(machine):
    machine(capability=(8, 0))
    for device, seen in ((CPU, "on cpu"), (MPS, "on mps"), (CUDA, "Some GPU, compute capability 8.0")):
        said = refusal("rowwise", device)
        assert all(word in said for word in ("runtime.float8: rowwise", seen, "8.9", "float8 to off"))
    machine(capability=(9, 4), hip="6.2")
    assert "by ROCm" in refusal("rowwise", CUDA)
    for enough in ((8, 9), (9, 0), (12, 0)):
        machine(capability=enough)
        require_float8("tensorwise", CUDA)


def test_without_torchao_the_error_names_the_extra(machine):
    machine(torchao=False)
    assert 'pip install "seqpair[float8]"' in refusal("tensorwise", CUDA)
    assert 'pip install "seqpair[float8]"' in refusal("tensorwise", CPU, emulate=True)
    machine()
    require_float8("tensorwise", CPU, emulate=True)


def test_the_doctor_says_whether_it_is_possible_and_all_that_is_missing(machine):
    machine()
    assert float8_words(CUDA).startswith("possible")
    assert float8_words(CPU).startswith("not possible here")
    assert "seqpair[float8]" not in float8_words(CPU)
    machine(torchao=False)
    assert "seqpair[float8]" in float8_words(CUDA)
    assert "8.9" not in float8_words(CUDA)
    assert "8.9" in float8_words(CPU)
    assert "seqpair[float8]" in float8_words(CPU)


def test_a_torchao_that_cannot_be_imported_is_one_error(monkeypatch):
    def fail(name):
        raise ImportError(f"cannot import name 'x' from '{name}'\nmore")

    monkeypatch.setattr(acceleration.importlib, "import_module", fail)
    with pytest.raises(SeqpairError, match=r"(?s)cannot be used with torch.*cannot import name.*seqpair\[float8\]"):
        float8_copy(nn.Linear(16, 16), lambda _: True, "rowwise", emulate=True)


def modules() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 40), nn.Linear(40, 48, bias=False), nn.Linear(48, 16), nn.Linear(16, 16))


@needs_torchao
@pytest.mark.parametrize("scaling", ["tensorwise", "rowwise"])
def test_the_copy_multiplies_in_float8_with_the_parameters_of_the_module(scaling):
    plain = nn.Sequential(nn.Linear(48, 64, bias=False), nn.Linear(64, 32))
    made = float8_copy(plain, lambda name: name == "0", scaling, emulate=True)
    assert (made.converted, made.odd) == (("0",), ())
    ours, theirs = (dict(module.named_parameters()) for module in (plain, made.module))
    assert list(ours) == list(theirs)
    assert all(ours[name] is theirs[name] for name in ours)
    assert [type(layer) for layer in plain] == [nn.Linear, nn.Linear]
    assert type(made.module[0]) is not nn.Linear
    assert type(made.module[1]) is nn.Linear
    given = torch.randn(16, 48, generator=torch.Generator().manual_seed(1))
    exact, rounded = plain(given), made.module(given)
    off = ((rounded - exact).norm() / exact.norm()).item()
    assert 1e-4 < off < 0.06  # e4m3 has 3 bits after the point: half a step is 2**-4 of a value
    rounded.square().sum().backward()
    assert plain[0].weight.grad.dtype == torch.float32
    assert plain[0].weight.grad.abs().sum() > 0


@needs_torchao
def test_rows_are_rounded_apart_and_a_whole_tensor_together():
    """Why `rowwise` is there: with one scale a large token changes how the others are rounded."""
    plain = nn.Sequential(nn.Linear(32, 32, bias=False))
    given = torch.randn(16, 32, generator=torch.Generator().manual_seed(1))
    louder = given.clone()
    louder[-1] *= 1.7
    for scaling, alike in (("rowwise", True), ("tensorwise", False)):
        module = float8_copy(plain, lambda _: True, scaling, emulate=True).module
        assert torch.equal(module(given)[:-1], module(louder)[:-1]) == alike


@needs_torchao
def test_layers_of_odd_sizes_are_left_and_named_and_none_at_all_is_an_error():
    made = float8_copy(modules(), lambda name: name != "3", "tensorwise", emulate=True)
    assert (made.converted, made.odd) == (("2",), ("0", "1"))
    with pytest.raises(SeqpairError, match=r"(?s)no layer.*0 40 x 32, 1 48 x 40.*multiples of 16"):
        float8_copy(modules(), lambda name: name in "01", "tensorwise", emulate=True)
