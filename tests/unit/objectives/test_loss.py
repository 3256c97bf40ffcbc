import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from seqpair.objectives import loss as loss_module
from seqpair.objectives.loss import summed_cross_entropy, token_scores


def random_case(rows: int, width: int, vocab: int, seed: int = 0):
    make = torch.Generator().manual_seed(seed)
    states = torch.randn(rows, width, generator=make, requires_grad=True)
    weight = torch.randn(vocab, width, generator=make, requires_grad=True)
    bias = torch.randn(vocab, generator=make, requires_grad=True)
    return states, weight, bias, torch.randint(0, vocab, (rows,), generator=make)


def plain(states, weight, bias, targets):
    return F.cross_entropy(F.linear(states, weight, bias), targets, reduction="sum")


@settings(max_examples=30)
@given(
    rows=st.integers(1, 70),
    width=st.integers(1, 20),
    vocab=st.integers(1, 90),
    chunk=st.integers(1, 80),
    few=st.booleans(),
)
def test_value_and_gradients_equal_plain_cross_entropy(rows, width, vocab, chunk, few):
    *parameters, targets = random_case(rows, width, vocab)
    expected = plain(*parameters, targets)
    wanted = torch.autograd.grad(expected / 3, parameters)
    got = summed_cross_entropy(*parameters, targets, chunk_rows=chunk, few_passes=few)
    assert got.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-4)
    for mine, theirs in zip(torch.autograd.grad(got / 3, parameters), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("few", [False, True])
def test_gradients_pass_gradcheck_in_double(few):
    *parameters, targets = random_case(5, 3, 7)
    doubles = [p.detach().double().requires_grad_() for p in parameters]
    assert torch.autograd.gradcheck(lambda s, w, b: summed_cross_entropy(s, w, b, targets, 2, None, few), doubles)


def test_large_logits_do_not_overflow():
    states, weight, bias, targets = random_case(40, 8, 30)
    got = summed_cross_entropy(states * 300, weight, bias, targets)
    assert got.item() == pytest.approx(plain(states * 300, weight, bias, targets).item(), rel=1e-5)


def test_no_rows_give_zero_and_zero_gradients():
    states, weight, bias, targets = random_case(0, 8, 30)
    loss = summed_cross_entropy(states, weight, bias, targets)
    loss.backward()
    assert loss.item() == 0.0
    assert states.grad.shape == (0, 8)
    assert weight.grad.count_nonzero() == 0
    assert bias.grad.count_nonzero() == 0


def test_only_what_needs_a_gradient_gets_one():
    states, weight, bias, targets = random_case(9, 4, 11)
    frozen = summed_cross_entropy(states, weight.detach(), bias.detach(), targets)
    frozen.backward()
    assert weight.grad is None
    assert bias.grad is None
    wanted = torch.autograd.grad(plain(states, weight, bias, targets), states)[0]
    torch.testing.assert_close(states.grad, wanted)
    with torch.no_grad():
        silent = summed_cross_entropy(states, weight, bias, targets)
    assert not silent.requires_grad
    assert silent.item() == pytest.approx(frozen.item(), rel=1e-6)


def test_backward_twice_over_a_kept_graph_gives_the_same_gradient():
    states, weight, bias, targets = random_case(9, 4, 11)
    loss = summed_cross_entropy(states, weight, bias, targets)
    first = torch.autograd.grad(loss * 0.25, weight, retain_graph=True)[0]
    second = torch.autograd.grad(loss, weight)[0]
    torch.testing.assert_close(first * 4, second)


def test_autocast_keeps_loss_and_weight_gradient_in_fp32():
    states, weight, bias, targets = random_case(50, 16, 40)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = summed_cross_entropy(states, weight, bias, targets, chunk_rows=16)
    loss.backward()
    assert loss.dtype == weight.grad.dtype == torch.float32
    reference = plain(states, weight, bias, targets)
    assert loss.item() == pytest.approx(reference.item(), rel=2e-2)
    wanted = torch.autograd.grad(reference, weight)[0]
    assert (weight.grad - wanted).norm() / wanted.norm() < 0.03


@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_few_passes_in_bf16_are_as_near_to_the_truth_as_many_in_fp32(scale):
    """With the larger scale most rows are right with a share above 0.99, where bf16 cannot hold share - 1."""
    states, weight, bias, targets = random_case(300, 64, 50)
    with torch.no_grad():
        states.mul_(0.2).add_(weight[targets] * (scale / 8))
    doubles = [p.detach().double().requires_grad_() for p in (states, weight, bias)]
    true_loss = plain(*doubles, targets)
    truth = torch.autograd.grad(true_loss, doubles)
    shares = F.linear(*(p.detach() for p in doubles)).softmax(1).gather(1, targets[:, None])
    assert (float((shares > 0.99).double().mean()) > 0.5) == (scale == 3.0)
    wrong = {}
    for few in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = summed_cross_entropy(states, weight, bias, targets, 64, few_passes=few)
        found = torch.autograd.grad(loss, (states, weight, bias))
        wrong[few] = [abs(loss.item() / true_loss.item() - 1)] + [
            float((mine - right).norm() / right.norm()) for mine, right in zip(found, truth, strict=True)
        ]
    assert all(few < 1.5 * many + 1e-3 for few, many in zip(wrong[True], wrong[False], strict=True)), wrong


def test_token_scores_match_the_full_logits():
    states, weight, bias, targets = random_case(50, 16, 40)
    losses, hits = token_scores(states, weight, bias, targets, chunk_rows=7)
    logits = F.linear(states, weight, bias)
    torch.testing.assert_close(losses, F.cross_entropy(logits, targets, reduction="none"))
    assert torch.equal(hits, logits.argmax(1) == targets)
    assert torch.equal(losses, token_scores(states, weight, bias, targets, chunk_rows=7)[0])
    assert not losses.requires_grad


def test_no_more_logits_are_held_than_one_chunk():
    states, weight, bias, targets = random_case(50, 4, 9)
    chunks = list(loss_module._logit_chunks(states.detach(), weight.detach(), bias.dtype, 16))
    assert [logits.shape[0] for _, logits in chunks] == [16, 16, 16, 2]
    assert len({logits.data_ptr() for _, logits in chunks}) == 1


def test_cutting_a_chunk_to_the_cache_changes_nothing(monkeypatch):
    states, weight, bias, targets = random_case(50, 4, 9)
    whole = torch.autograd.grad(loss_module.summed_cross_entropy(states, weight, bias, targets), (states, weight, bias))
    scores = loss_module.token_scores(states, weight, bias, targets)
    monkeypatch.setattr(loss_module, "_CACHE_BYTES", 7 * 4 * weight.shape[0])  # seven rows at a time, then one
    cut = torch.autograd.grad(loss_module.summed_cross_entropy(states, weight, bias, targets), (states, weight, bias))
    for mine, theirs in zip(cut, whole, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)
    assert all(
        torch.equal(a, b) for a, b in zip(loss_module.token_scores(states, weight, bias, targets), scores, strict=True)
    )


@pytest.mark.parametrize("few", [False, True])
def test_votes_weigh_each_rows_loss_and_gradients(few):
    states, weight, bias, targets = random_case(50, 8, 40)
    votes = torch.rand(50) * 3
    got = summed_cross_entropy(states, weight, bias, targets, chunk_rows=16, votes=votes, few_passes=few)
    expected = (F.cross_entropy(states @ weight.T + bias, targets, reduction="none") * votes).sum()
    torch.testing.assert_close(got, expected)
    wanted = torch.autograd.grad(expected, (states, weight, bias))
    for mine, theirs in zip(torch.autograd.grad(got, (states, weight, bias)), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    ones = [
        summed_cross_entropy(states, weight, bias, targets, votes=given, few_passes=few)
        for given in (None, torch.ones(50))
    ]
    assert torch.equal(*ones)
