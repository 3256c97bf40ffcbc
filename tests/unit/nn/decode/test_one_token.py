from pathlib import Path

import pytest
import torch

from seqpair.nn.decode.cache import KeyValueCache
from seqpair.nn.decode.cached_decoder import CachedDecoder
from seqpair.nn.decode.one_token import OneTokenStep, find_library
from seqpair.nn.layout import Layout
from seqpair.nn.model import LanguageModel
from seqpair.nn.rope import RopeBases
from seqpair.recipe.plan import ModelPlan
from seqpair.recipe.sizes import SIZES, Shape

ROPE = RopeBases(5000.0, 900.0)
SHAPES = {  # sums of 24, 8, 4 and 1 registers; a head dimension of 16; uneven shares of 3 and 5 threads
    "17m": Shape(layers=4, width=256, inner=384, heads=4),
    "odd": Shape(layers=4, width=144, inner=176, heads=3),
    "test": SIZES["test"],
}


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Look for the library anew, with an empty cache folder; forget what was found afterwards."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    find_library.cache_clear()
    yield tmp_path / "seqpair"
    find_library.cache_clear()


@pytest.fixture(scope="module")
def built():
    library = find_library()
    if library.read_token is None:
        pytest.skip(library.why)
    return library


def make_model(shape, window_tokens=8):
    model = LanguageModel(ModelPlan(shape=shape, vocab_size=64, window_tokens=window_tokens), "reference").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 1.5 * shape.width**-0.5 if parameter.ndim == 2 else 0.1, generator=generator)
            if "norm" in name:
                parameter.add_(1.0)
    return model


@pytest.mark.parametrize("threads", [1, 3, 5])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@torch.inference_mode()
def test_a_step_gives_the_head_states_of_the_uncached_forward(built, shape, threads):
    model = make_model(shape)
    decoder = CachedDecoder(model, ROPE)
    ids = torch.randint(0, 64, (40,), generator=torch.Generator().manual_seed(1))
    expected = model(ids, Layout.from_lengths([40]), "causal", ROPE, torch.arange(40))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        cache = KeyValueCache(decoder.plan, [3], 37, decoder.table)
        found = [decoder.read_prompts(cache, [ids[:3]], 100)]
        found += [decoder.read_tokens(cache, ids[place : place + 1]) for place in range(3, 40)]
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(torch.cat(found), expected[2:], rtol=0, atol=1e-4)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@torch.inference_mode()
def test_logits_and_the_likeliest_tokens_are_those_of_the_tensor_calls(built, shape, threads):
    model = make_model(shape)
    ids = torch.randint(0, 64, (5,), generator=torch.Generator().manual_seed(3))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = []
        for compiled in (True, False):
            decoder = CachedDecoder(model, ROPE, compiled=compiled)
            cache = KeyValueCache(decoder.plan, [5], 30, decoder.table)
            states = decoder.read_prompts(cache, [ids], 100)
            logits, chosen = [decoder.logits(states)], []
            for _ in range(12):
                chosen.append(int(logits[-1].argmax()))
                logits.append(decoder.logits(decoder.read_tokens(cache, torch.tensor(chosen[-1:]))))
            found.append((torch.cat(logits), chosen))
        torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=1e-4)
        assert found[0][1] == found[1][1]
        decoder = CachedDecoder(model, ROPE)
        cache = KeyValueCache(decoder.plan, [5], 30, decoder.table)
        first = int(decoder.logits(decoder.read_prompts(cache, [ids], 100)).argmax())
        follow = decoder.likeliest_tokens(cache, first)
        assert [first, *(next(follow) for _ in range(11))] == found[0][1]
    finally:
        torch.set_num_threads(before)
    assert CachedDecoder(model, ROPE, compiled=False).likeliest_tokens(cache, first) is None


@pytest.mark.parametrize(("entries", "best"), [(64, 0), (64, 63), (613, 300), (613, 612), (256, 255)])
@torch.inference_mode()
def test_of_equal_logits_the_first_is_the_likeliest(built, entries, best):
    """Blocks of 256, vectors and single logits: the bias alone decides, and the largest stands in it twice."""
    model = LanguageModel(ModelPlan(shape=SHAPES["test"], vocab_size=entries, window_tokens=8), "reference").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.output_bias[best] = 1.0
        model.output_bias[entries - 1] = 1.0
    decoder = CachedDecoder(model, ROPE)
    cache = KeyValueCache(decoder.plan, [1], 3, decoder.table)
    decoder.read_prompts(cache, [torch.tensor([1])], 100)
    assert next(decoder.likeliest_tokens(cache, 0)) == best


@pytest.mark.parametrize("columns_before", range(1, 10))
@torch.inference_mode()
def test_a_short_row_that_is_left_alone_sees_its_own_columns_of_the_ring(built, columns_before):
    """The ring holds 9 columns of the longer row; those before the short row's first must not count."""
    model = make_model(SHAPES["test"])
    decoder = CachedDecoder(model, ROPE)
    long, short = torch.randint(0, 64, (2, 30), generator=torch.Generator().manual_seed(2))
    cache = KeyValueCache(decoder.plan, [3 + columns_before, 3], 27, decoder.table)
    decoder.read_prompts(cache, [long[: 3 + columns_before], short[:3]], 100)
    cache.keep_rows([1])
    found = [decoder.read_tokens(cache, short[place : place + 1]) for place in range(3, 30)]
    expected = model(short, Layout.from_lengths([30]), "causal", ROPE, torch.arange(30))
    torch.testing.assert_close(torch.cat(found), expected[3:], rtol=0, atol=1e-4)


def test_the_library_is_built_once(built, fresh, capsys):
    first = find_library()
    (path,) = fresh.iterdir()
    assert first.why == str(path)
    assert str(path) in capsys.readouterr().err
    written = path.stat().st_mtime_ns
    find_library.cache_clear()
    assert find_library().why == str(path)
    assert path.stat().st_mtime_ns == written
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("path", "compiler", "words"), [("", None, "no C++ compiler"), (None, "false", "false cannot")]
)
def test_without_a_working_compiler_the_tensor_calls_do_it(fresh, monkeypatch, path, compiler, words):
    if path is not None:
        monkeypatch.setenv("PATH", path)
        monkeypatch.delenv("CXX", raising=False)
    else:
        monkeypatch.setenv("CXX", compiler)
    library = find_library()
    assert library.read_token is None
    assert words in library.why
    assert not fresh.exists()
    decoder = CachedDecoder(make_model(SHAPES["test"]), ROPE)
    cache = KeyValueCache(decoder.plan, [2], 1, decoder.table)
    with torch.inference_mode():
        decoder.read_prompts(cache, [torch.tensor([1, 2])], 10)
        assert decoder.read_tokens(cache, torch.tensor([3])).isfinite().all()


def test_a_library_that_cannot_be_loaded_is_named(built, fresh):
    broken = fresh / Path(built.why).name  # the loader knows a library by its path: this one was never loaded
    fresh.mkdir()
    broken.write_bytes(b"not a library")
    library = find_library()
    assert library.read_token is None
    assert str(broken) in library.why


def test_it_fits_the_suite_on_a_cpu_only():
    cpu = torch.device("cpu")
    assert all(OneTokenStep.fits(shape, cpu) for shape in SIZES.values())
    assert not OneTokenStep.fits(SIZES["17m"], torch.device("meta"))
    assert not OneTokenStep.fits(Shape(layers=4, width=48, inner=48, heads=2), cpu)
