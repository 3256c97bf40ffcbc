"""The loss's Triton kernels, run by Triton's interpreter on the CPU and compiled for a GPU that is not there."""

import importlib
import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from seqpair.objectives.loss import summed_cross_entropy

from .test_loss import plain, random_case

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Triton asks for it once, when it is imported, so what is interpreted runs in a process of its own."""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="a CPU build of torch brings no triton"),
]
interpreted = pytest.mark.skipif(not INTERPRETED, reason="run by the test of the interpreter")


@pytest.mark.skipif(INTERPRETED, reason="this is that process")
def test_the_kernels_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-m", "slow", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "5 passed" in done.stdout


@interpreted
@pytest.mark.parametrize(("rows", "vocab", "weighted"), [(1, 3, False), (37, 5003, True)])
def test_value_and_gradients_equal_plain_cross_entropy(rows, vocab, weighted):
    *parameters, targets = random_case(rows, 8, vocab)
    votes = (torch.rand(rows) * (torch.arange(rows) % 3 != 1)) if weighted else None  # rows without a vote, too
    logits = torch.nn.functional.linear(*parameters)
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    expected = losses.sum() if votes is None else (losses * votes).sum()
    wanted = torch.autograd.grad(expected / 3, parameters)
    got = summed_cross_entropy(*parameters, targets, 16, votes, few_passes=True, fused=True)
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)
    for mine, theirs in zip(torch.autograd.grad(got / 3, parameters), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=2e-5)


@interpreted
def test_large_logits_do_not_overflow():
    states, *rest, targets = random_case(40, 8, 30)
    got = summed_cross_entropy(states * 300, *rest, targets, few_passes=True, fused=True)
    assert got.item() == pytest.approx(plain(states * 300, *rest, targets).item(), rel=1e-5)


@interpreted
@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_bf16_logits_are_as_near_to_the_truth_as_by_torch(scale):
    states, weight, bias, targets = random_case(300, 64, 50)
    with torch.no_grad():
        states.mul_(0.2).add_(weight[targets] * (scale / 8))
    doubles = [p.detach().double().requires_grad_() for p in (states, weight, bias)]
    true_loss = plain(*doubles, targets)
    truth = torch.autograd.grad(true_loss, doubles)
    wrong = {}
    for fused in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = summed_cross_entropy(states, weight, bias, targets, few_passes=True, fused=fused)
        found = torch.autograd.grad(loss, (states, weight, bias))
        wrong[fused] = [abs(loss.item() / true_loss.item() - 1)] + [
            float((mine - right).norm() / right.norm()) for mine, right in zip(found, truth, strict=True)
        ]
    # The interpreter cuts bf16 off where a GPU rounds, so the gradients may be a little worse here.
    assert all(mine < 1.5 * torchs + 1e-3 for mine, torchs in zip(wrong[True], wrong[False], strict=True)), wrong


@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled there")
@pytest.mark.parametrize(("name", "sizes"), [("_row_losses", (4096,)), ("_row_gradients", (16, 256))])
def test_kernels_compile_for_a_gpu(name, sizes):
    kernel = getattr(importlib.import_module("seqpair.objectives.fused"), name)
    compiler = importlib.import_module("triton.compiler")
    target = importlib.import_module("triton.backends.compiler").GPUTarget("cuda", 90, 32)
    known = dict.fromkeys(("votes", "log_sums", "losses", "column_sums"), "*fp32") | {
        "logits": "*bf16",
        "targets": "*i64",
    }
    constants = dict(zip(kernel.arg_names[-len(sizes) :], sizes, strict=True))
    types = {key: known.get(key, "i32") for key in kernel.arg_names} | dict.fromkeys(constants, "constexpr")
    made = compiler.compile(compiler.ASTSource(kernel, types, constants), target=target)
    assert made.asm["cubin"].startswith(b"\x7fELF")


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="the kernels are run on CUDA")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernels_on_a_gpu_are_as_near_to_the_truth_as_torch(dtype):
    states, weight, bias, targets = (tensor.detach().cuda() for tensor in random_case(6000, 64, 50_368))
    votes = torch.rand(6000, device="cuda") * (torch.arange(6000, device="cuda") % 3 != 1)
    given = [tensor.requires_grad_() for tensor in (states * 0.2, weight, bias)]
    doubles = [tensor.detach().double().requires_grad_() for tensor in given]
    losses = torch.nn.functional.cross_entropy(torch.nn.functional.linear(*doubles), targets, reduction="none")
    truth = torch.autograd.grad((losses * votes).sum(), doubles)
    wrong = {}
    for fused in (False, True):
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = summed_cross_entropy(*given, targets, votes=votes, fused=fused)
        found = torch.autograd.grad(loss, given)
        wrong[fused] = [float((mine - right).norm() / right.norm()) for mine, right in zip(found, truth, strict=True)]
    assert all(mine < 1.1 * torchs + 1e-4 for mine, torchs in zip(wrong[True], wrong[False], strict=True)), wrong
