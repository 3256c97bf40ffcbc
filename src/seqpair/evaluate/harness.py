"""Any model of ours or Hugging Face's as a model of lm-eval, under the name `seqpair`; encoders too.

lm-eval finds models by a list of its own, so its command line is started from here, where the name is known; in Python,
import this file before the name is used:

    python -m seqpair.evaluate.harness run --model seqpair --model_args pretrained=runs/demo/encoder/export --tasks ...

Differs from lm-eval's own `hf` model: rows always begin with the tokenizer's beginning token if it has a template
that adds one, also where a context is cut on the left; generation is greedy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from seqpair.errors import EvaluationError, needs_extra
from seqpair.models.generate import complete_texts
from seqpair.models.open import open_model
from seqpair.models.score import Request, ScoringOptions, score_continuations
from seqpair.text import Progress

with needs_extra("running tasks of lm-eval", "eval", EvaluationError):
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model

CHUNK_REQUESTS = 256
DEFAULT_NEW_TOKENS = 256


@register_model("seqpair")
class SeqpairLM(LM):  # type: ignore[misc]
    """The scorer and the generation of a model, as lm-eval asks for them."""

    def __init__(
        self,
        pretrained: str,
        masks: int = 3,
        end: Literal["sep", "period", "none"] = "sep",
        score_end: bool = False,
        batch_tokens: int | None = None,
        device: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        """Open a model.

        Args:
            pretrained: An export, a Hugging Face folder, or a name on the hub.
            masks: An encoder's masks after what is known.
            end: What ends an encoder's row.
            score_end: Whether that is scored.
            batch_tokens: Most places of a padded batch; by default as `open_model` has it.
            device: Where the model runs; by default the GPU if there is one.
            batch_size: lm-eval gives it; batches here are by tokens, and no result depends on them.
            max_batch_size: As `batch_size`.

        Raises:
            EvaluationError: The model or the options cannot be used.
        """
        super().__init__()
        self.model = open_model(pretrained, device=device or "auto", batch_tokens=batch_tokens)
        self.options = ScoringOptions(masks, end, score_end)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return log-probability and greedy match of each (context, continuation)."""
        return [(score.log_prob, score.is_greedy) for score in self._scores([r.args for r in requests], disable_tqdm)]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return each text's log-probability; a text longer than the model is scored in pieces.

        A piece is half of the model's length and sees as much of the text before it as fits.
        """
        pieces: list[Request] = []
        owners: list[int] = []
        added = 2 + self.options.masks + self.options.score_end if self.model.direction == "bidirectional" else 1
        room = self.model.max_tokens - added
        for index, content in enumerate(self.model.encode([request.args[0] for request in requests])):
            step = len(content) if len(content) <= room else max(1, room // 2)
            for start in range(0, len(content), max(1, step)):
                piece = content[start : start + step]
                pieces.append((content[max(0, start - (room - len(piece))) : start], piece))
                owners.append(index)
        totals = np.zeros(len(requests))
        values = [score.log_prob for score in self._scores(pieces, disable_tqdm)]
        np.add.at(totals, np.array(owners, dtype=np.int64), values)
        return [float(total) for total in totals]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return what the model adds greedily to each context, cut before the stop strings.

        Raises:
            EvaluationError: Sampling is asked for.
        """
        made = [""] * len(requests)
        groups: dict[tuple[tuple[str, ...], int], list[int]] = {}
        for index, request in enumerate(requests):
            options = request.args[1]
            if options.get("do_sample") and options.get("temperature", 1.0) > 0:
                raise EvaluationError("this model generates greedily only", seen="do_sample: true", allowed="false")
            until = options.get("until") or []
            stop = (until,) if isinstance(until, str) else tuple(until)
            limit = int(options.get("max_gen_toks") or DEFAULT_NEW_TOKENS)
            groups.setdefault((stop, limit), []).append(index)
        for (stop, asked), own in groups.items():
            limit = min(asked, self.model.max_tokens // 2)  # room for the prompt of a short model
            progress = None if disable_tqdm else Progress("generate", len(own), "texts")
            for start in range(0, len(own), CHUNK_REQUESTS):
                chunk = own[start : start + CHUNK_REQUESTS]
                prompts = [requests[index].args[0] for index in chunk]
                written = complete_texts(self.model, prompts, stop, limit, self.options)
                for index, text in zip(chunk, written.texts, strict=True):
                    made[index] = text
                if progress:
                    progress.update(start + len(chunk))
        return made

    def _scores(self, requests: Sequence[Request], quiet: bool) -> list[Any]:
        scores = []
        progress = None if quiet else Progress("score", len(requests), "requests")
        for start in range(0, len(requests), CHUNK_REQUESTS):
            scores.extend(score_continuations(self.model, requests[start : start + CHUNK_REQUESTS], self.options))
            if progress:
                progress.update(len(scores))
        return scores


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
