import pytest
import torch

from seqpair.errors import SeqpairError
from seqpair.nn.decode import generate as module
from seqpair.nn.decode.cache import KeyValueCache
from seqpair.nn.decode.cached_decoder import CachedDecoder, FedPiece, plan_pieces
from seqpair.nn.decode.generate import Sampling, choose_tokens, generate, likeliest
from seqpair.nn.decode.one_token import find_library
from seqpair.nn.layout import Layout
from seqpair.nn.model import LanguageModel
from seqpair.nn.rope import RopeBases
from seqpair.recipe.plan import ModelPlan
from seqpair.recipe.sizes import Shape

WINDOW = 8
ROPE = RopeBases(5000.0, 900.0)
PLAN = ModelPlan(shape=Shape(layers=4, width=32, inner=48, heads=2), vocab_size=320, window_tokens=WINDOW)


@pytest.fixture(scope="module")
def model():
    """Weights wide enough that a wrong window, position or row moves the logits."""
    made = LanguageModel(PLAN, "reference").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.normal_(0.0, 0.2 if parameter.ndim == 2 else 0.1, generator=generator)
            if "norm" in name:
                parameter.add_(1.0)
    return made


@pytest.fixture(scope="module", params=["compiled", "tensor calls"])
def decoder(model, request):
    if request.param == "compiled" and find_library().read_token is None:
        pytest.skip(find_library().why)
    return CachedDecoder(model, ROPE, compiled=request.param == "compiled")


def prompts_of(*lengths, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 320, (length,), generator=generator) for length in lengths]


@torch.no_grad()
def full_logits(model, ids):
    """(T, V) logits of one forward over all tokens, no cache."""
    states = model(ids, Layout.from_lengths([len(ids)]), "causal", ROPE, torch.arange(len(ids)))
    return model.logits(states)


@torch.inference_mode()
def cached_logits(decoder, prompts, following, chunk_tokens):
    """(1 + steps, B, V): logits after the prompts, and after every following token of each row."""
    cache = KeyValueCache(PLAN, [len(prompt) for prompt in prompts], following.shape[1], decoder.table)
    found = [decoder.logits(decoder.read_prompts(cache, prompts, chunk_tokens))]
    found += [decoder.logits(decoder.read_tokens(cache, following[:, step])) for step in range(following.shape[1])]
    return torch.stack(found)


RAGGED = {
    "one, shorter than the window": [3],
    "one token": [1],
    "one, the window": [WINDOW],
    "one, the window and itself": [WINDOW + 1],
    "one, longer": [40],
    "three": [40, 9, 2],
    "three equal": [20, 20, 20],
    "sixteen, some far shorter": [300, 290, 160, 150, 30, 30, 29, 17, 12, 10, 9, 8, 7, 3, 2, 1],
}


@pytest.mark.parametrize("chunk_tokens", [7, 10_000])
@pytest.mark.parametrize("lengths", RAGGED.values(), ids=RAGGED)
def test_every_step_gives_the_logits_of_the_uncached_forward(model, decoder, lengths, chunk_tokens):
    prompts, following = prompts_of(*lengths), torch.stack(prompts_of(*[25] * len(lengths), seed=2))
    found = cached_logits(decoder, prompts, following, chunk_tokens)
    for row, prompt in enumerate(prompts):
        whole = full_logits(model, torch.cat([prompt, following[row]]))[len(prompt) - 1 :]
        torch.testing.assert_close(found[:, row], whole, rtol=0, atol=1e-4)


def test_a_dropped_row_does_not_move_the_others(model, decoder):
    prompts, following = prompts_of(200, 60, 9, 2), torch.stack(prompts_of(12, 12, 12, 12, seed=2))
    with torch.inference_mode():
        cache = KeyValueCache(PLAN, [len(prompt) for prompt in prompts], 12, decoder.table)
        decoder.read_prompts(cache, prompts, 64)
        rows = [0, 1, 2, 3]
        for step in range(12):
            if step in (4, 7, 9):
                place = {4: 0, 7: 1, 9: 1}[step]  # the longest row, then one in the middle, then the last
                rows.pop(place)
                cache.keep_rows([index for index in range(len(rows) + 1) if index != place])
            logits = decoder.logits(decoder.read_tokens(cache, following[rows, step]))
            for place, row in enumerate(rows):
                whole = full_logits(model, torch.cat([prompts[row], following[row, : step + 1]]))
                torch.testing.assert_close(logits[place], whole[-1], rtol=0, atol=1e-4)
    assert rows == [1]


def test_a_local_layer_keeps_its_window_and_no_more():
    like = torch.empty(0)
    short, long = (KeyValueCache(PLAN, [length], 10, like).bytes() for length in (100, 10_000))
    token_bytes = 4 * 2 * PLAN.shape.width
    assert short[1] == long[1] == 2 * (WINDOW + 1) * token_bytes  # layers 1 and 2
    assert long[0] == 2 * 10_010 * token_bytes  # layers 0 and 3


def test_greedy_is_what_repeated_full_forwards_choose(model, decoder):
    prompts = prompts_of(30, 4, 11)
    found = generate(decoder, [prompt.tolist() for prompt in prompts], 15)
    for prompt, continuation in zip(prompts, found, strict=True):
        ids = prompt
        for _ in range(15):
            ids = torch.cat([ids, full_logits(model, ids)[-1].argmax()[None]])
        assert continuation.ids == ids[len(prompt) :].tolist()
        assert continuation.stopped == "length"


def test_a_stop_id_ends_its_row_alone(decoder):
    prompts = [prompt.tolist() for prompt in prompts_of(30, 4, 11)]
    free = generate(decoder, prompts, 15)
    stop = free[1].ids[5]
    stopped = generate(decoder, prompts, 15, stop_ids=[stop])
    for before, after in zip(free, stopped, strict=True):
        if stop in before.ids:
            assert after.ids == before.ids[: before.ids.index(stop)]
            assert (after.stopped, after.stop_id) == ("stop", stop)
        else:
            assert after.ids == before.ids
            assert (after.stopped, after.stop_id) == ("length", None)
    assert stopped[1].stopped == "stop"


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=0.9, top_p=0.9, seed=5)], ids=["greedy", "drawn"]
)
def test_a_continuation_does_not_depend_on_its_neighbours(decoder, sampling):
    prompts = [prompt.tolist() for prompt in prompts_of(30, 4, 11, 80, 2)]
    limits = [12, 1, 20, 0, 7]
    together = generate(decoder, prompts, limits, sampling=sampling)
    assert [len(found.ids) for found in together] == limits
    in_pairs = generate(decoder, prompts, limits, sampling=sampling, batch_rows=2, chunk_tokens=5)
    assert in_pairs == together


def test_watching_counts_every_token(decoder):
    seen = []
    generate(decoder, [[1, 2], [3]], 4, batch_rows=1, watch=seen.append)
    assert seen == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("prompts", "limit", "words"),
    [([[]], 3, "empty"), ([[1], [320]], 3, "id"), ([[1], [-1]], 3, "id"), ([[1]], -1, "new")],
)
def test_bad_input_is_one_clear_error(decoder, prompts, limit, words):
    with pytest.raises(SeqpairError, match=words):
        generate(decoder, prompts, limit)


def test_pieces_cover_every_token_once_and_only_the_first_goes_on():
    chunks = plan_pieces([20, 5, 1, 9], 8)
    covered = [(piece.row, token) for chunk in chunks for piece in chunk for token in range(piece.begin, piece.end)]
    assert covered == [(row, token) for row, length in enumerate([20, 5, 1, 9]) for token in range(length)]
    assert all(piece.begin == 0 for chunk in chunks for piece in chunk[1:])
    assert max(sum(piece.end - piece.begin for piece in chunk) for chunk in chunks) == 8
    assert chunks[2] == [FedPiece(0, 16, 20), FedPiece(1, 0, 4)]


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
