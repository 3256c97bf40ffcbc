"""What a recipe says about its data: sources and the tokenizer.

Owns the pydantic models of the recipe's `data` section. Must not know how a source is read. The data
layer takes these values as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from seqpair.errors import DataError
from seqpair.recipe.cleaning_spec import CleaningSpec, effective_cleaning
from seqpair.recipe.counts import Count


class SourceSpec(BaseModel):
    """One named body of text.

    Attributes:
        name: The source's name: letters, digits, `-` and `_`.
        kind: `text` (one document a file), `jsonl`, `parquet` (one document a row), or `python` (the
            standard library of the running interpreter).
        paths: Files, folders or glob patterns, relative to the recipe file; empty for `python`.
        text_field: The column or key that holds the text (`jsonl`, `parquet`); several names are
            joined by a blank line, in this order.
        id_field: The column or key that holds a document's id; without it the id is made from the
            file's name and the row number.
        part: For `python`: `prose` (docstrings) or `code` (the modules without their docstrings).
        held_out_frac: The share of documents held out for evaluation, chosen by a hash of the
            document (for `python`: of the module, the same modules for both parts).
        cleaning: Rules of this source alone, laid over `data.cleaning`; in a loaded recipe all rules that
            apply to it, None if there are none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    kind: Literal["text", "jsonl", "parquet", "python"]
    paths: tuple[str, ...] = ()
    text_field: tuple[str, ...] = ("text",)
    id_field: str | None = None
    part: Literal["prose", "code"] | None = None
    held_out_frac: float = Field(default=0.01, ge=0.0, lt=1.0)
    cleaning: CleaningSpec | None = None

    @model_serializer(mode="wrap")
    def _without_no_cleaning(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave `cleaning` out where there is none: such a source has the digest it had before there were rules."""
        values: dict[str, Any] = handler(self)
        if values.get("cleaning", self) is None:
            del values["cleaning"]
        return values


def require_paths(sources: Sequence[SourceSpec]) -> None:
    """Check that every source says where its text is, before anything is read.

    Raises:
        DataError: Sources that are read from files have no paths; all of them are named.
    """
    unfilled = [source.name for source in sources if source.kind != "python" and not source.paths]
    if unfilled:
        example = f"data: {{sources: {{{unfilled[0]}: {{kind: jsonl, paths: [folder/*.jsonl.zst]}}}}}}"
        raise DataError(
            f"{len(unfilled)} sources have no paths" if len(unfilled) > 1 else "a source has no paths",
            seen=", ".join(unfilled),
            allowed="files, folders or patterns under `paths` of each source",
            fix=f"fill them in your recipe, such as {example}; a source that you do not have is removed with null, "
            "there and in each mixture",
        )


class TokenizerSpec(BaseModel):
    """A tokenizer to load, or one to train on the recipe's own sources.

    Attributes:
        path: A folder (or `tokenizer.json`) in Hugging Face's format; `None` means: train one.
        train_vocab_size: Entries of a trained tokenizer, specials included, before padding.
        train_bytes: At most this much text is used for training it, spread over the sources.
        pad_vocab_to: The model's vocabulary is padded to a multiple of this.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str | None = None
    train_vocab_size: Count = Field(default=4096, ge=300)
    train_bytes: Count = Field(default=50_000_000, ge=1)
    pad_vocab_to: Count = Field(default=64, ge=1)


class DataSpec(BaseModel):
    """The recipe's data section.

    Attributes:
        cleaning: Which documents of all sources are left out; see `CleaningSpec`. By default none.
        sources: The sources, each with a name of its own.
        tokenizer: The one tokenizer of the study.
        stores: The folder under which stores are kept, addressed by content; relative to the
            current folder.
        expected_mean_tokens: Content tokens of a mean sequence at 1,024, used only while no store
            is there (615 is what the original's checkpoints imply; at other lengths see `resolve`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cleaning: CleaningSpec | None = None
    sources: tuple[SourceSpec, ...] = ()
    tokenizer: TokenizerSpec = TokenizerSpec()
    stores: str = "stores"
    expected_mean_tokens: float = Field(default=615.0, gt=0, le=1022)

    @field_validator("sources")
    @classmethod
    def _with_their_cleaning(cls, sources: tuple[SourceSpec, ...], info: ValidationInfo) -> tuple[SourceSpec, ...]:
        """Give every source all rules that apply to it, so that a source's spec says the whole of its store."""
        shared = info.data.get("cleaning")
        return tuple(
            source.model_copy(update={"cleaning": effective_cleaning(shared, source.cleaning)}) for source in sources
        )
