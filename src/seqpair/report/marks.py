"""Small drawings: a member's attention matrix, and an interval against zero."""

from __future__ import annotations

from seqpair.compare.values import Interval

_CELLS = 7
_STEP, _SIDE = 10, 8
_WIDTH, _HEIGHT = 120, 18


def attention_mark(direction: str) -> str:
    """Return the attention matrix of a direction: row i is a token, filled cells are what it sees."""
    causal = direction == "causal"
    cells = []
    for row in range(_CELLS):
        for column in range(_CELLS):
            seen = column <= row or not causal
            style = "seen" if seen else "unseen"
            cells.append(
                f'<rect class="{style}" x="{column * _STEP + 1}" y="{row * _STEP + 1}" width="{_SIDE}" '
                f'height="{_SIDE}" rx="1.5"/>'
            )
    label = "each token sees itself and the tokens before it" if causal else "each token sees every token"
    side = _CELLS * _STEP
    return f'<svg class="mark" viewBox="0 0 {side} {side}" role="img" aria-label="{label}">{"".join(cells)}</svg>'


def interval_mark(interval: Interval, span: float) -> str:
    """Return an interval as a whisker with a dot, on a scale from -span to span with a line at zero."""

    def place(value: float) -> float:
        inside = max(-span, min(span, value))
        return _WIDTH / 2 + inside / span * (_WIDTH / 2 - 4)

    low, high, middle, half = place(interval.low), place(interval.high), place(interval.value), _HEIGHT / 2
    return (
        f'<svg class="whisker" viewBox="0 0 {_WIDTH} {_HEIGHT}" aria-hidden="true">'
        f'<line class="zero" x1="{_WIDTH / 2}" x2="{_WIDTH / 2}" y1="0" y2="{_HEIGHT}"/>'
        f'<line class="range" x1="{low:.1f}" x2="{high:.1f}" y1="{half}" y2="{half}"/>'
        f'<circle cx="{middle:.1f}" cy="{half}" r="3.4"/></svg>'
    )
