import pytest

from seqpair.recipe.sizes import SIZES, parameter_count


@pytest.mark.parametrize(
    ("size", "non_embedding", "total"),
    [
        ("17m", 4_019_392, 16_913_600),
        ("32m", 12_740_032, 32_081_344),
        ("68m", 42_669_248, 68_457_664),
        ("150m", 110_972_608, 149_655_232),
        ("400m", 344_304_832, 395_881_664),
        ("1b", 941_054_656, 1_031_314_112),
    ],
)
def test_counts_equal_the_published_table(size: str, non_embedding: int, total: int) -> None:
    count = parameter_count(SIZES[size], 50_368)
    assert (count.non_embedding, count.total) == (non_embedding, total)


@pytest.mark.parametrize("size", [size for size in SIZES if size not in ("test",)])
def test_first_and_last_layer_are_global_and_heads_are_even(size: str) -> None:
    shape = SIZES[size]
    assert (shape.layers - 1) % 3 == 0
    assert shape.head_dim == 64


def test_the_test_size_is_about_60k() -> None:
    assert 50_000 <= parameter_count(SIZES["test"], 512).total <= 70_000
