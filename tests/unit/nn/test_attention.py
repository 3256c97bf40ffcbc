import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_mask

from seqpair.errors import SeqpairError
from seqpair.nn import blocked
from seqpair.nn import gpu_kernels as varlen
from seqpair.nn.attention import KERNELS, attend, check_kernel
from seqpair.nn.gpu_kernels import visible_pairs
from seqpair.nn.layout import Layout

WINDOWS = [(reach, reach) for reach in (0, 4, 64, None)] + [(reach, 0) for reach in (4, 64, None)] + [(3, 7)]


def forward_and_backward(kernel, lengths, window, heads=2, head_dim=8, seed=0, prefixes=None):
    make = torch.Generator().manual_seed(seed)
    shape = (sum(lengths), heads, head_dim)
    inputs = [torch.randn(shape, generator=make, requires_grad=True) for _ in range(3)]
    out = attend(*inputs, Layout.from_lengths(lengths, prefixes=prefixes), window, kernel)
    grads = torch.autograd.grad(out, inputs, torch.randn(shape, generator=make))
    return out.detach(), *grads


@settings(max_examples=40)
@given(
    lengths=st.lists(st.one_of(st.integers(1, 400), st.integers(1, 40)), min_size=1, max_size=7),
    window=st.sampled_from(WINDOWS),
)
@example(lengths=[1], window=(None, None))
@example(lengths=[1, 1, 1], window=(64, 64))
@example(lengths=[33] * 12, window=(None, 0))
@example(lengths=[128, 129, 256, 257], window=(None, 0))
@example(lengths=[400, 3, 390, 3, 395], window=(None, None))
@example(lengths=[65, 64, 66], window=(64, 0))
@example(lengths=[32, 32], window=(64, 64))
@example(lengths=[90, 90, 80, 80], window=(64, 64))
@example(lengths=[9, 90, 80, 11], window=(64, 64))
@example(lengths=[9, 90, 80, 11], window=(4, 0))
def test_blocked_equals_reference_forward_and_backward(lengths, window):
    wanted = forward_and_backward("reference", lengths, window)
    got = forward_and_backward("blocked", lengths, window)
    for name, mine, theirs in zip(("out", "query", "key", "value"), got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@settings(max_examples=40)
@given(
    cut_lengths=st.lists(st.integers(1, 150).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))), min_size=1),
    window=st.sampled_from(WINDOWS),
)
def test_blocked_equals_reference_with_prefixes(cut_lengths, window):
    lengths, prefixes = zip(*cut_lengths[:6], strict=True)
    wanted = forward_and_backward("reference", lengths, window, prefixes=prefixes)
    got = forward_and_backward("blocked", lengths, window, prefixes=prefixes)
    for name, mine, theirs in zip(("out", "query", "key", "value"), got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("prefixes", [None, [3, 1, 4], [5, 1, 1]])
def test_reference_is_the_formula_written_as_loops(window, prefixes):
    lengths = [5, 1, 9]
    make = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(15, 2, 4, generator=make, dtype=torch.float64) for _ in range(3))
    got = attend(query, key, value, Layout.from_lengths(lengths, prefixes=prefixes), window, "reference")
    left, right = (10**6 if side is None else side for side in window)
    start = 0
    for length, prefix in zip(lengths, prefixes or lengths, strict=True):
        for i in range(length):
            seen = [start + j for j in range(length) if i - left <= j <= i + right and (j <= i or j < prefix)]
            for head in range(2):
                weights = torch.softmax((key[seen, head] @ query[start + i, head]) / 2.0, 0)
                torch.testing.assert_close(got[start + i, head], weights @ value[seen, head], rtol=1e-6, atol=1e-6)
        start += length


def test_a_local_layer_never_builds_more_than_blocks_times_span():
    layout = Layout.from_lengths([5000, 3192])
    states = torch.randn(8192, 1, 8)
    attend(states, states, states, layout, (64, 64), "blocked")
    (mask,) = (value for key, value in layout._derived.items() if key[0] == "blocked")
    assert mask.numel() == 8192 * (64 + blocked._BLOCK_TOKENS + 64)


@pytest.mark.parametrize(("in_place", "most"), [(True, 3), (False, 2)])  # runs of one length, or padded rows
def test_many_short_sequences_are_a_few_calls(in_place, most, monkeypatch):
    calls = []
    original = blocked._sdpa
    monkeypatch.setattr(blocked, "_sdpa", lambda *args, **kw: calls.append(args[0].shape) or original(*args, **kw))
    lengths = [33] * 100 + [32] * 40 + [30] * 20
    layout = Layout.from_lengths(lengths if in_place else lengths[::-1])
    states = torch.randn(layout.total, 1, 8)
    for window in ((None, None), (None, 0), (64, 64), (64, 0)):
        attend(states, states, states, layout, window, "blocked")
    assert len(calls) <= 4 * most
    assert (blocked._row_plan(layout).index is None) == in_place


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=7),
    in_place=st.booleans(),
    window=st.sampled_from(WINDOWS),
    data=st.data(),
)
def test_attention_from_some_places_is_the_reference_there(lengths, in_place, window, data):
    lengths = sorted(lengths, reverse=True) if in_place else lengths
    places = torch.tensor(data.draw(st.lists(st.integers(0, sum(lengths) - 1), min_size=1, max_size=9)))
    layout, make = Layout.from_lengths(lengths), torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(sum(lengths), 2, 8, generator=make) for _ in range(3))
    found = blocked.attend_at(query[places], key, value, layout, window, places)
    torch.testing.assert_close(found, attend(query, key, value, layout, window, "reference")[places])


def test_few_places_are_few_in_every_sequence():
    layout = Layout.from_lengths([90] * 10)
    assert blocked.few_places(layout, torch.arange(5, 900, 90))
    assert blocked.few_places(layout, torch.tensor([3, 3, 800]))
    assert not blocked.few_places(layout, torch.arange(900))
    assert not blocked.few_places(layout, torch.arange(40))
    assert not blocked.few_places(layout, torch.arange(0))


def test_masks_are_made_once_per_layout(monkeypatch):
    layout = Layout.from_lengths([40, 300])
    states = torch.randn(340, 1, 8)
    first = [attend(states, states, states, layout, window, "blocked") for window in WINDOWS]
    monkeypatch.setattr(Layout, "derive", lambda self, key, make: self._derived[key])  # KeyError if not kept
    second = [attend(states, states, states, layout, window, "blocked") for window in WINDOWS]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


PARITY_WINDOWS = [(reach, reach) for reach in (0, 4, 64)] + [(reach, 0) for reach in (0, 4, 64)]
PARITY_WINDOWS += [(None, None), (None, 0)]


@settings(max_examples=12)
@given(
    lengths=st.lists(st.one_of(st.integers(1, 5000), st.integers(1, 300)), min_size=1, max_size=4).filter(
        lambda lengths: sum(lengths) <= 5400  # the reference holds N x N scores
    ),
    window=st.sampled_from(PARITY_WINDOWS),
)
@example(lengths=[5000, 1], window=(None, 0))
@example(lengths=[1, 4999, 2], window=(64, 64))
@pytest.mark.slow
def test_parity_table_on_the_cpu_in_fp32(lengths, window):
    wanted = forward_and_backward("reference", lengths, window, heads=1)
    got = forward_and_backward("blocked", lengths, window, heads=1)
    for name, mine, theirs in zip(("out", "query", "key", "value"), got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("window", PARITY_WINDOWS)
def test_blocked_equals_reference_in_bf16_to_3e_2(window):
    check_in_half_precision("blocked", [200, 1, 33, 129], window, "cpu")


def check_in_half_precision(kernel, lengths, window, device, prefixes=None):
    """Compare with the fp32 reference: within 3e-2, about four steps of bf16 at 1."""
    make = torch.Generator().manual_seed(0)
    shape = (sum(lengths), 2, 64)
    parts = [torch.randn(shape, generator=make).bfloat16().to(device) for _ in range(3)]
    upstream = torch.randn(shape, generator=make).bfloat16().to(device)
    layout = Layout.from_lengths(lengths, device, prefixes=prefixes)
    results = []
    for name, dtype in ((kernel, torch.bfloat16), ("reference", torch.float32)):
        inputs = [part.to(dtype).requires_grad_() for part in parts]
        out = attend(*inputs, layout, window, name)
        results.append([out, *torch.autograd.grad(out, inputs, upstream.to(dtype))])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine.float(), theirs, rtol=3e-2, atol=3e-2)


def test_auto_is_blocked_on_the_cpu():
    states = torch.randn(50, 2, 8)
    layout = Layout.from_lengths([20, 30])
    auto = attend(states, states, states, layout, (4, 4))
    assert torch.equal(auto, attend(states, states, states, layout, (4, 4), "blocked"))


def test_an_unknown_kernel_names_those_there_are():
    with pytest.raises(SeqpairError, match="no attention kernel") as caught:
        check_kernel("flsh")
    assert "'flsh'" in str(caught.value)
    assert all(name in str(caught.value) for name in ["auto", *KERNELS])


def test_gpu_kernels_say_what_they_need_when_they_cannot_run():
    states = torch.randn(50, 2, 16)
    for kernel in ("varlen", "flash", "flex"):
        with pytest.raises(SeqpairError, match=f"the {kernel} kernel cannot run here"):
            attend(states, states, states, Layout.from_lengths([20, 30]), (4, 4), kernel)


@pytest.mark.parametrize("window", WINDOWS)
def test_flex_is_asked_for_the_pairs_that_the_reference_sees(window):
    layout = Layout.from_lengths([200, 1, 33, 30])
    got = create_mask(visible_pairs(layout, window), None, None, layout.total, layout.total, device="cpu")
    assert torch.equal(got[0, 0], layout.visible(window))


def test_flash_attention_3_is_for_hopper_with_its_package(monkeypatch):
    activated = []
    monkeypatch.setattr(torch.nn.attention, "current_flash_attention_impl", lambda: None)
    monkeypatch.setattr(torch.nn.attention, "activate_flash_attention_impl", activated.append)
    for capability, package, wanted in (((9, 0), True, "FA3"), ((9, 0), False, "FA2"), ((8, 0), True, "FA2")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        monkeypatch.setattr(varlen.importlib.util, "find_spec", lambda _, found=package: found or None)
        assert varlen.choose_flash(torch.device("cuda", 0)) == wanted
    assert activated == ["FA3"]
    assert varlen.choose_flash(torch.device("cpu")) == ""


def test_a_flash_attention_3_that_cannot_be_used_is_named_and_left(monkeypatch, capsys):
    def refuse(_):
        raise RuntimeError("does not expose FA3 kernels")

    monkeypatch.setattr(torch.nn.attention, "current_flash_attention_impl", lambda: None)
    monkeypatch.setattr(torch.nn.attention, "activate_flash_attention_impl", refuse)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(varlen.importlib.util, "find_spec", lambda _: True)
    assert varlen.choose_flash(torch.device("cuda", 0)) == "FA2"
    assert "does not expose FA3 kernels" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.parametrize("window", PARITY_WINDOWS)
@pytest.mark.parametrize("kernel", ["varlen", "flash", "flex"])
def test_gpu_kernels_equal_the_reference_in_bf16(kernel, window):
    if kernel == "flash":
        pytest.importorskip("flash_attn")
    for prefixes in (None, [399, 1, 1, 60, 700]):
        check_in_half_precision(kernel, [400, 1, 33, 129, 2000], window, "cuda", prefixes)


@pytest.mark.gpu
@pytest.mark.parametrize("window", PARITY_WINDOWS)
def test_flex_equals_the_reference_in_fp32(window, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    lengths = [400, 1, 33, 129]
    make = torch.Generator().manual_seed(0)
    parts = [torch.randn(sum(lengths), 2, 64, generator=make).cuda().requires_grad_() for _ in range(3)]
    layout, upstream = Layout.from_lengths(lengths, "cuda"), torch.ones(sum(lengths), 2, 64, device="cuda")
    results = []
    for kernel in ("flex", "reference"):
        out = attend(*parts, layout, window, kernel)
        results.append([out, *torch.autograd.grad(out, parts, upstream)])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)  # triton may sum fp32 products as tf32x3
