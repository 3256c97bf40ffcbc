import shutil

import pytest
import torch

from seqpair.distributed import compiled
from seqpair.distributed.compiled import compile_words, should_compile
from seqpair.errors import SeqpairError

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


def test_auto_compiles_on_cuda_with_triton_and_nowhere_else(monkeypatch):
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: object())
    assert [should_compile("auto", device) for device in (CPU, CUDA, MPS)] == [False, True, False]
    assert not should_compile("off", CUDA)
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: None)
    assert not should_compile("auto", CUDA)
    with pytest.raises(SeqpairError, match="cuda without triton"):
        should_compile("on", CUDA)


def test_a_cpu_without_a_compiler_and_mps_are_refused(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/cl" if name == "cl" else None)
    assert should_compile("on", CPU)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SeqpairError, match=r"a C\+\+ compiler"):
        should_compile("on", CPU)
    with pytest.raises(SeqpairError, match="runtime.compile"):
        should_compile("on", MPS)


def test_the_doctor_says_what_auto_does_and_what_is_missing(monkeypatch):
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: object())
    assert compile_words(CUDA).startswith("compiled")
    assert compile_words(MPS).startswith("not compiled; it would need")
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: None)
    assert compile_words(CUDA) == "not compiled; it would need triton"
