"""The refused rows of a source, kept as JSON lines beside its stores.

A line has `reason`, `file`, `row` (1-based, as in messages), `bytes` (of the whole row where known) and `text`,
or `base64` where the bytes are not UTF-8. Of a long row only the beginning is kept; `bytes` tells.
"""

from __future__ import annotations

import base64
import json

from seqpair.data.sources.documents import Refusal

REFUSED = "refused.jsonl"
KEPT_BYTES = 1 << 14


def as_line(refusal: Refusal) -> str:
    """Return one refused row as a line of JSON."""
    line: dict[str, object] = {"reason": refusal.reason, "file": refusal.file, "row": refusal.row + 1}
    if refusal.raw is not None:
        line["bytes"] = len(refusal.raw)
        kept = refusal.raw[:KEPT_BYTES]
        try:
            line["text"] = kept.decode("utf-8")
        except UnicodeDecodeError as error:
            if len(refusal.raw) > KEPT_BYTES and error.start >= len(kept) - 3:  # the cut fell inside a character
                line["text"] = kept[: error.start].decode("utf-8")
            else:
                line["base64"] = base64.b64encode(kept).decode("ascii")
    return json.dumps(line, ensure_ascii=True) + "\n"


def moved_line(line: str, rows_before: int) -> tuple[str, str, str, int]:
    """Return a line with its row counted on, and its reason, file and 0-based row.

    Args:
        line: A line of `as_line` whose row is relative to a unit.
        rows_before: The rows of its file before that unit.
    """
    value = json.loads(line)
    value["row"] += rows_before
    text = line if rows_before == 0 else json.dumps(value, ensure_ascii=True) + "\n"
    return text, value["reason"], value["file"], value["row"] - 1
