from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from seqpair.data.order.ragged import borders_of, chunks, span_numbers

SPANS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9)), max_size=20)


@given(SPANS)
def test_the_numbers_of_spans_come_one_span_after_another(spans):
    starts, lengths = (np.array([span[i] for span in spans], dtype=np.int64) for i in (0, 1))
    expected = [number for start, length in spans for number in range(start, start + length)]
    assert span_numbers(starts, lengths).tolist() == expected
    assert borders_of(lengths).tolist() == [sum(lengths[:i]) for i in range(len(spans) + 1)]


@given(lengths=st.lists(st.integers(0, 9), max_size=30), most=st.integers(1, 20))
def test_chunks_are_all_sequences_in_turn_and_keep_their_bound(lengths, most):
    found = list(chunks(borders_of(np.array(lengths, dtype=np.int64)), most))
    assert [index for some in found for index in range(some.start, some.stop)] == list(range(len(lengths)))
    assert all(sum(lengths[some]) <= most or some.stop - some.start == 1 for some in found)
    # No two neighbours could be one.
    assert all(sum(lengths[a.start : b.stop]) > most for a, b in zip(found, found[1:], strict=False))
