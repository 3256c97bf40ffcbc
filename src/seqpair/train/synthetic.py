"""A study of made-up tokens, prepared in a folder, to measure training without a corpus.

Tokens follow 1 / rank over the whole vocabulary and lengths are log-normal (median 330 tokens), as text's
roughly do; what they say does not matter to speed. Only the random replacements of masked tokens come from
a few hundred ids.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from seqpair.data.prepared import Prepared
from seqpair.data.store.store import Store
from seqpair.data.store.writer import SplitWriter
from seqpair.data.tokenizer.tokenizer import Tokenizer, train_tokenizer
from seqpair.files import sha256_json
from seqpair.recipe.data_spec import TokenizerSpec
from seqpair.recipe.load import load_recipe
from seqpair.recipe.plan import Plan
from seqpair.recipe.resolve import resolve_plan

_SOURCE = "synthetic"
_ENTRIES = 300
_RECIPE = """\
extends: 4m
name: bench
size: {size}
runs: {folder}/runs
data:
  stores: {folder}/stores
  sources:
    - {{name: {source}, kind: text, paths: [nothing.txt]}}
  tokenizer: {{train_vocab_size: {entries}, pad_vocab_to: {vocab_size}}}
phases:
  - name: pretrain
    tag: step
    seq_len: {seq_len}
    budget_tokens: {budget_tokens}
    mixture: {{{source}: {{share: 1.0}}}}
    rope_global_theta: 10_000
    rope_local_theta: 10_000
    mask_frac: 0.3
    batch: {{tokens: {batch_tokens}}}
    lr: {{curve: constant}}
checkpoints: {{every_tokens: {budget_tokens}}}
held_out: {{every_tokens: {budget_tokens}, sequences: 1, mask_frac: 0.3}}
runtime: {{precision: {precision}}}
"""


def synthetic_study(
    folder: Path,
    size: str,
    member: str,
    *,
    vocab_size: int,
    seq_len: int,
    batch_tokens: int,
    precision: str,
    overrides: list[str],
) -> tuple[Plan, Prepared]:
    """Make the data and the plan.

    Args:
        folder: An empty folder for store, tokenizer and run.
        size: The size's name.
        member: `encoder` or `decoder`.
        vocab_size: Rows of the token table.
        seq_len: Tokens of the longest sequence, specials included.
        batch_tokens: Content tokens of a step, about.
        precision: `fp32` or `bf16`.
        overrides: As the command line's `--set`.
    """
    tokenizer = train_tokenizer(["made up"], TokenizerSpec(train_vocab_size=_ENTRIES, pad_vocab_to=vocab_size))
    store = _write_store(folder / "train", tokenizer, tokens=max(16 * batch_tokens, 64 * seq_len), seq_len=seq_len)
    text = _RECIPE.format(
        size=size,
        folder=folder,
        source=_SOURCE,
        entries=_ENTRIES,
        vocab_size=vocab_size,
        seq_len=seq_len,
        batch_tokens=batch_tokens,
        precision=precision,
        budget_tokens=100_000 * batch_tokens,
    )
    path = folder / "bench.yaml"
    path.write_text(text, encoding="utf-8")
    recipe = load_recipe(str(path), overrides)
    plan = resolve_plan(recipe, member, {_SOURCE: store.stats([seq_len])}, tokenizer.vocab_size)
    return plan, Prepared(tokenizer=tokenizer, train={_SOURCE: store}, held_out={})


def _write_store(folder: Path, tokenizer: Tokenizer, tokens: int, seq_len: int) -> Store:
    rng = np.random.default_rng(0)
    first = int(tokenizer.special_ids.max()) + 1
    entries = tokenizer.vocab_size - first
    with SplitWriter(folder, tokenizer.vocab_size) as writer:
        while writer.tokens < tokens:
            length = int(np.clip(rng.lognormal(5.8, 1.0), 33, 20_000))
            if seq_len > 4096:  # long rows are measured full: documents of their length are rare in text
                length = seq_len - 2
            ids = first + (entries ** rng.random(length)).astype(np.int64) - 1  # P(rank) ~ 1 / rank
            row = writer.documents
            writer.add_tokens(ids.astype(np.dtype(writer.dtype).newbyteorder("<")).tobytes())
            writer.add_documents([f"made-up-{row}"], pa.array(["made-up"]), np.array([row]), np.array([length]))
        writer.close()
        writer.finish(
            source=_SOURCE,
            split="train",
            kind="text",
            part=None,
            address=sha256_json({"made up": tokens}),
            tokenizer_digest=tokenizer.digest,
            text_bytes=4 * writer.tokens,
            special_tokens=0,
            held_out_frac=0.0,
            python_version=None,
            rejected={},
            rejected_examples={},
            removed={},
        )
    return Store.open(folder)
