import json

import pytest
import torch

from seqpair.distributed.hardware import Hardware
from seqpair.nn.attention import KERNELS
from seqpair.train.doctor import advice, find_kernels

ALL = {"torch": "2.13", "transformers": "5.0"}


def machine(**changes):
    base = {"device": "cpu", "name": "x", "devices": 1, "cores": 8, "threads": 8, "memory_bytes": 1, "vector": "AVX2"}
    return Hardware(**(base | changes))


def advised(hardware=None, libraries=ALL, load=0.0, gain=1.0, hidden_gpu=False):
    return " | ".join(advice(hardware or machine(), libraries, load, gain, hidden_gpu=hidden_gpu))


def test_on_a_cpu_the_blocked_kernel_is_chosen_and_the_cuda_one_says_what_it_needs():
    found = {kernel.name: kernel for kernel in find_kernels(torch.device("cpu"))}
    assert set(found) == set(KERNELS)
    assert found["blocked"].chosen_for == ("fp32", "bf16")
    assert found["reference"].chosen_for == ()
    assert found["reference"].usable
    assert not found["varlen"].usable
    assert "CUDA" in found["varlen"].why


def test_bf16_is_advised_only_where_it_was_measured_to_be_faster():
    assert "keep runtime.precision: fp32" in advised(gain=0.2)
    assert "--precision bf16" in advised(gain=3.0)
    assert "runtime.precision: bf16" in advised(machine(device="cuda"), gain=8.0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"hardware": machine(threads=2)}, "torch uses 2 of 8 cores"),
        ({"hardware": machine(threads=16)}, "OMP_NUM_THREADS lower"),
        ({"load": 20.0}, "busy"),
        ({"libraries": {**ALL, "transformers": None}}, "seqpair[hub]"),
        ({"hidden_gpu": True}, "build of torch"),
    ],
)
def test_what_costs_speed_is_said_and_only_then(given, words):
    assert words in advised(**given)
    assert words not in advised()


def test_the_verb_prints_its_findings_and_ends_well(seqpair):
    code, out, _ = seqpair("doctor", "--device", "cpu", "--json")
    assert code == 0
    answer = json.loads(out)
    assert answer["hardware"]["threads"] == torch.get_num_threads()
    assert answer["libraries"]["torch"] == torch.__version__
    assert "8.9" in answer["float8"]
    assert answer["fp32_flops_per_second"] > 1e8
    assert answer["bf16_flops_per_second"] > 1e6
    assert answer["read_bytes_per_second"] > 1e8
    code, out, _ = seqpair("doctor", "--device", "cpu")
    assert code == 0
    for word in ("device", "libraries", "kernel      blocked", "float8      not possible here", "torch.mm", "advice"):
        assert word in out


def test_a_device_that_is_not_there_is_one_message(seqpair):
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    code, _, err = seqpair("doctor", "--device", "cuda")
    assert code == 2
    assert "Traceback" not in err
