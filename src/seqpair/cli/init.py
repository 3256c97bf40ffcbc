"""The verb `init`: a commented recipe for one's own text, ready for `seqpair run`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqpair.errors import RecipeError
from seqpair.text import format_bytes, format_count, nearest

if TYPE_CHECKING:
    from seqpair.data.sources.documents import Source
    from seqpair.recipe.schema import Recipe

_BYTES_PER_TOKEN = 4.0
_EPOCHS = 4
"""A text repeated up to about four times is worth nearly as much as new text (arXiv 2305.16264)."""
_LEAST_TOKENS = 20_000
_STEPS = 1000
_LEAST_BATCH_TOKENS = 1024
"""A small text gets small batches: many small steps learn more from it than few large ones."""
_PACKED = (".gz", ".zst", ".parquet")

_RECIPE = """\
# A pair of language models on your own text: an encoder and a decoder that differ in nothing but the objective.
#
#   seqpair plan {file}    prints steps, tokens, memory and disk before anything is trained
#   seqpair run {file}     prepares, trains, exports, evaluates and reports; repeat it after any interruption
#
# A key that is not written here has the value of the preset; `seqpair plan {file} --origins` lists every value.
extends: {size}
name: {name}
size: {size} # also: {sizes}

# How many tokens are read in training. It scales all phases, warm-ups and batch ramps of the preset together.
budget: {budget}

data:
  # Paths are relative to this file: files, folders, patterns such as texts/*.jsonl.zst, or URLs.
  # Kinds: text (one document per file); jsonl, csv and parquet (one document per row, its text in text_field).
  sources:
{sources}
  # The tokenizer is trained on the sources. To use another one: tokenizer: {{path: FOLDER}}
  stores: stores # the tokenized text; several recipes can share this folder
{phases}
members: # both read the same sequences in the same order
  encoder: {{objective: mlm}}
  decoder: {{objective: clm}}

runs: runs # checkpoints, results and the report go to runs/{name}
runtime:
  device: auto # CUDA if there is a device, otherwise the CPU
"""


def _print_keys(asked: bool) -> None:
    from seqpair.recipe.keys import recipe_keys

    if asked:
        for key in recipe_keys():
            default = key.default and f" (default: {key.default})".replace("default: required", "required")
            print(f"{key.path}: {key.values}{default}. {key.meaning}")
        raise typer.Exit


def init(
    text: Annotated[list[Path], typer.Option(help="Train on this file or folder of text; repeatable.")],
    file: Annotated[Path, typer.Argument(help="Write this recipe file.")] = Path("recipe.yaml"),
    name: Annotated[str | None, typer.Option(help="Name the study; by default after the file.")] = None,
    size: Annotated[str, typer.Option(help="Train this size: `1m` on a laptop, `17m` and above on a GPU.")] = "1m",
    text_field: Annotated[str, typer.Option(help="The column of the text, in files of rows.")] = "text",
    keys: Annotated[
        bool, typer.Option("--keys", is_eager=True, callback=_print_keys, help="Print every key of recipes, and exit.")
    ] = False,
) -> None:
    """Write a commented recipe for your own text that works as it is with `seqpair run`.

    The kind of each source follows from its files: .jsonl, .csv and .parquet contain rows, anything else is one
    document per file. The budget reads the text about four times, but no more than the preset of the size does.

    Example: seqpair init mine.yaml --text texts/ --size 1m
    """
    from seqpair.data.prepare.early import look_early
    from seqpair.data.sources.opening import sources_of_paths
    from seqpair.files import write_text
    from seqpair.recipe.load import load_recipe
    from seqpair.recipe.sizes import SIZES

    study = re.sub(r"[^A-Za-z0-9_-]+", "-", file.stem).strip("-_") if name is None else name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", study):
        raise RecipeError(
            "the study's name is not made of letters, digits, `-` and `_`", seen=repr(study), fix="give another --name"
        )
    if size not in SIZES:
        raise RecipeError(f"there is no size '{size}'{nearest(size, SIZES)}", seen=size, allowed=", ".join(SIZES))
    if not str(file).isprintable():
        raise RecipeError(
            "the recipe's file has a name that cannot be shown", seen=repr(str(file)), fix="choose another"
        )
    if file.exists():
        raise RecipeError("the recipe file exists", seen=file, fix="choose another name, or remove the file first")
    sources = sources_of_paths(text, (text_field,))
    look_early(sources, None)
    preset = load_recipe(size)
    tokens, guess = _tokens_of(sources)
    budget = _budget(preset, tokens)
    written = _RECIPE.format(
        file=file,
        name=study,
        size=size,
        sizes=", ".join(other for other in SIZES if other not in (size, "test")),
        budget=f"{_short(budget)} # the text is {guess}",
        sources="\n".join(_source_line(source, file.absolute().parent) for source in sources),
        phases=_phase_lines([source.spec.name for source in sources], preset, budget),
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, written)
    load_recipe(str(file))
    print(f"{file}: a pair of size {size} on {', '.join(source.spec.name for source in sources)} ({guess})")
    print(f"next: seqpair plan {file}, then seqpair run {file}")


def _tokens_of(sources: Sequence[Source]) -> tuple[int | None, str]:
    """Return a guess of the tokens, None where files are packed, and the guess in words."""
    files = [file for source in sources for file in source.files]
    size = sum(file.size_bytes for file in files)
    if any(file.path.name.endswith(_PACKED) for file in files):
        return None, f"{format_bytes(size)} in packed files"
    tokens = round(size / _BYTES_PER_TOKEN)
    return tokens, f"{format_bytes(size)}, about {format_count(tokens)} tokens"


def _own_tokens(preset: Recipe) -> int:
    """Return the tokens that `budget` sets: those of all phases but the conversions."""
    return sum(phase.budget_tokens for phase in preset.phases if phase.tag != "cross")


def _budget(preset: Recipe, tokens: int | None) -> int:
    own = _own_tokens(preset)
    return own if tokens is None else min(own, max(_LEAST_TOKENS, _EPOCHS * tokens))


def _short(tokens: float) -> str:
    """Return a count of two digits as a recipe writes it: 20k, 1.2M."""
    text = format_count(float(f"{tokens:.2g}"))
    return re.sub(r"\.?0+(?=[kMBT]$)", "", text) if "." in text else text


def _source_line(source: Source, folder: Path) -> str:
    """Return a source as a line of YAML, its path relative to the recipe; JSON's strings are YAML's."""
    spec = source.spec
    path = os.path.relpath(spec.paths[0], folder)
    quoted, column = (json.dumps(word, ensure_ascii=False) for word in (path, spec.text_field[0]))
    field = "" if spec.kind == "text" else f", text_field: [{column}]"
    held_out = "held_out_frac: 0.05"  # of small data 1 % would be a handful of documents
    return f"    - {{name: {spec.name}, kind: {spec.kind}, paths: [{quoted}]{field}, {held_out}}}"


def _phase_lines(names: list[str], preset: Recipe, budget: int) -> str:
    """Return each phase's mixture of several sources, and a batch where the preset's is too large for the budget."""
    lines = []
    for phase in preset.phases:
        mixture = ", ".join(f"{name}: {{epochs: 1}}" for name in names)
        written = [] if len(names) == 1 else [f"mixture: {{{mixture}}}"]
        share = budget * phase.budget_tokens / _own_tokens(preset)
        batch = max(_LEAST_BATCH_TOKENS, 2 * phase.seq_len, round(share / _STEPS))
        if batch < (phase.batch.tokens or (phase.batch.sequences or 0) * phase.seq_len):
            written.append(f"batch: {{sequences: null, tokens: {batch}, ramp: null}}")
        if written:
            lines.append(f"  {phase.name}: {{{', '.join(written)}}}")
    if not lines:
        return ""
    title = "phases: # epochs weigh the sources against each other; batches are in tokens per step"
    return "\n".join(["", title, *lines, ""])
