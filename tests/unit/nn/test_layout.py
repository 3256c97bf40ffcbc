import pytest
import torch

from seqpair.nn.layout import Layout


def test_positions_restart_at_each_sequence():
    layout = Layout.from_lengths([3, 1, 2])
    assert layout.total == 6
    assert layout.max_length == 3
    assert layout.starts.tolist() == [0, 3, 4, 6]
    assert layout.positions.tolist() == [0, 1, 2, 0, 0, 1]
    assert layout.sequence_ids.tolist() == [0, 0, 0, 1, 2, 2]


@pytest.mark.parametrize(
    ("window", "row"),
    [
        ((1, 0), [0, 1, 1, 0, 0]),
        ((0, 0), [0, 0, 1, 0, 0]),
        ((None, None), [1, 1, 1, 1, 0]),
        ((None, 0), [1, 1, 1, 0, 0]),
    ],
)
def test_visible_is_the_window_within_the_sequence(window, row):
    assert Layout.from_lengths([4, 1]).visible(window)[2].tolist() == [bool(value) for value in row]


@pytest.mark.parametrize("lengths", [[], [3, 0]])
def test_empty_layouts_and_sequences_are_refused(lengths):
    with pytest.raises(AssertionError, match="at least one"):
        Layout.from_lengths(lengths)


def test_derive_makes_once():
    made = []
    layout = Layout.from_lengths([2])
    assert layout.derive("a", lambda: made.append(1) or 5) == 5
    assert layout.derive("a", lambda: made.append(1) or 6) == 5
    assert made == [1]
    assert torch.equal(layout.starts, torch.tensor([0, 2]))
