import math

import torch

from seqpair.nn.layout import Layout
from seqpair.nn.rope import rotary_tables, rotated_parts, turn_in_place


def rotate(states, tables):
    """Queries turned, of heads that serve as queries, keys and values."""
    return rotated_parts(states.repeat(1, 3, 1), tables)[0]


def test_rotation_by_hand():
    layout = Layout.from_lengths([3, 2])
    states = torch.arange(5 * 1 * 4, dtype=torch.float32).view(5, 1, 4)
    got = rotate(states, rotary_tables(layout, 100.0, 4))
    for token, position in enumerate([0, 1, 2, 0, 1]):
        for pair in range(2):  # half-split: feature j with j + K/2
            angle = position * 100.0 ** (-2 * pair / 4)
            a, b = states[token, 0, pair].item(), states[token, 0, pair + 2].item()
            wanted = [a * math.cos(angle) - b * math.sin(angle), b * math.cos(angle) + a * math.sin(angle)]
            torch.testing.assert_close(got[token, 0, [pair, pair + 2]], torch.tensor(wanted))


def test_gradcheck():
    tables = rotary_tables(Layout.from_lengths([3, 2]), 10.0, 6)
    doubles = tuple(table.double() for table in tables)
    states = torch.randn(5, 2, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: rotate(s, doubles), states)


def test_scores_depend_on_distance_only():
    layout = Layout.from_lengths([50])
    tables = rotary_tables(layout, 10_000.0, 16)
    query, key = torch.randn(1, 1, 16).expand(50, 1, 16), torch.randn(1, 1, 16).expand(50, 1, 16)
    turned_query, turned_key = rotate(query, tables)[:, 0], rotate(key, tables)[:, 0]
    scores = turned_query @ turned_key.T
    torch.testing.assert_close(scores.diagonal(5), scores.diagonal(5)[:1].expand(45), rtol=1e-4, atol=1e-4)


def test_half_precision_comes_back_as_it_went_in():
    layout = Layout.from_lengths([9])
    states = torch.randn(9, 2, 8)
    tables = rotary_tables(layout, 10_000.0, 8)
    got = rotate(states.bfloat16(), tables)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), rotate(states, tables), rtol=2e-2, atol=2e-2)


def test_tables_are_fp32_and_kept_per_base():
    layout = Layout.from_lengths([9])
    first = rotary_tables(layout, 10_000.0, 8)
    assert first[0].dtype == torch.float32
    assert rotary_tables(layout, 10_000.0, 8)[0] is first[0]
    assert rotary_tables(layout, 160_000.0, 8)[0] is not first[0]


def test_parts_are_the_rotated_queries_and_keys_and_the_values_as_they_were():
    tables = tuple(table.double() for table in rotary_tables(Layout.from_lengths([3, 2]), 10.0, 6))
    qkv = torch.randn(5, 6, 6, dtype=torch.float64, requires_grad=True)
    query, key, value = rotated_parts(qkv, tables)
    assert torch.equal(query, rotate(qkv[:, :2], tables))
    assert torch.equal(key, rotate(qkv[:, 2:4], tables))
    assert torch.equal(value, qkv[:, 4:])
    assert torch.autograd.gradcheck(lambda states: rotated_parts(states, tables), qkv)


def test_without_gradients_the_projection_is_turned_in_place_to_the_same_bits():
    layout = Layout.from_lengths([200, 60])  # more tokens than are turned at a time
    tables, qkv = rotary_tables(layout, 10.0, 6), torch.randn(260, 6, 6)
    wanted = rotated_parts(qkv, tables)
    with torch.no_grad():
        found = rotated_parts(qkv, tables)
    assert found[0].data_ptr() == qkv.data_ptr()
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, wanted, strict=True))
    states = torch.randn(260, 4, 6)
    expected = rotate(states, tables)
    turn_in_place(states, tables)
    assert torch.equal(states, expected)
