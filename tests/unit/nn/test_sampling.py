import pytest
import torch

from seqpair.errors import SeqpairError
from seqpair.nn import sampling as module
from seqpair.nn.sampling import Sampling, choose_tokens, likeliest

DRAWS = 20_000
LOGITS = torch.tensor([2.0, 0.0, 1.0, -1.0, 1.5])


def shares(sampling, logits=LOGITS):
    """How often each of the tokens is drawn, each draw as another prompt."""
    prompts = torch.arange(DRAWS)
    drawn = choose_tokens(logits.expand(DRAWS, -1), sampling, prompts, step=3)
    return torch.bincount(drawn, minlength=len(logits)).double() / DRAWS


def test_greedy_takes_the_likeliest():
    assert choose_tokens(torch.stack([LOGITS, -LOGITS]), Sampling(), torch.arange(2), 0).tolist() == [0, 3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # by numpy, and by blocks
@pytest.mark.parametrize("entries", [64, 320, 327])
def test_the_likeliest_is_what_argmax_finds_the_first_of_equal_ones(entries, dtype):
    values = torch.randint(0, 9, (40, entries), generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(likeliest(values), values.argmax(-1))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_have_the_softmax_distribution(temperature):
    wanted = (LOGITS.double() / temperature).softmax(-1)
    assert (shares(Sampling(temperature=temperature)) - wanted).abs().max() < 0.015  # four standard errors


def test_top_k_draws_among_the_k_likeliest():
    wanted = torch.tensor([2.0, -torch.inf, 1.0, -torch.inf, 1.5]).double().softmax(-1)
    found = shares(Sampling(temperature=1.0, top_k=3))
    assert found[[1, 3]].sum() == 0
    assert (found - wanted).abs().max() < 0.015


def test_top_p_keeps_the_token_that_crosses_the_bound_and_none_after_it():
    probabilities = LOGITS.double().softmax(-1)  # 0.46, 0.28, 0.17, 0.06, 0.02 in the order 0, 4, 2, 1, 3
    bound = float(probabilities[[0, 4]].sum()) + 0.01
    found = shares(Sampling(temperature=1.0, top_p=bound))
    wanted = torch.zeros(5).double()
    wanted[[0, 4, 2]] = probabilities[[0, 4, 2]] / probabilities[[0, 4, 2]].sum()
    assert found[[1, 3]].sum() == 0
    assert (found - wanted).abs().max() < 0.015
    assert shares(Sampling(temperature=1.0, top_p=1e-6))[0] == 1


def test_top_p_sorts_more_when_the_first_candidates_are_not_enough(monkeypatch):
    whole = shares(Sampling(temperature=1.0, top_p=0.95))
    monkeypatch.setattr(module, "FIRST_CANDIDATES", 2)
    assert torch.equal(shares(Sampling(temperature=1.0, top_p=0.95)), whole)


def test_a_draw_is_keyed_by_seed_prompt_and_step():
    logits = torch.zeros(1, 1000)

    def draw(seed=1, prompt=2, step=3):
        return int(choose_tokens(logits, Sampling(temperature=1.0, seed=seed), torch.tensor([prompt]), step))

    assert draw() == draw()
    assert len({draw(), draw(seed=9), draw(prompt=9), draw(step=9)}) == 4


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": 1, "top_k": 0},
        {"temperature": 1, "top_p": 0},
        {"temperature": 1, "top_p": 1.1},
        {"top_k": 5},
        {"top_p": 0.5},
    ],
)
def test_values_that_make_no_sense_are_refused(options):
    with pytest.raises(SeqpairError):
        Sampling(**options)
