"""What a recipe says about its data: sources and the tokenizer.

The data layer takes these values as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from seqpair.errors import DataError, without_secrets
from seqpair.recipe.cleaning_spec import CleaningSpec, effective_cleaning
from seqpair.recipe.sizes import Count

Kind = Literal["text", "jsonl", "parquet", "python", "mds", "csv", "webdataset", "hub"]

_ROW_OPTIONS = ("paths", "text_field", "id_field")
OPTIONS_BY_KIND: dict[str, tuple[str, ...]] = {
    "text": ("paths", "split"),
    "jsonl": _ROW_OPTIONS,
    "parquet": _ROW_OPTIONS,
    "python": ("part",),
    "mds": (*_ROW_OPTIONS, "ids_field", "ids_dtype"),
    "csv": (*_ROW_OPTIONS, "delimiter", "quoting"),
    "webdataset": _ROW_OPTIONS,
    "hub": (*_ROW_OPTIONS, "ids_field", "dataset", "config", "split", "revision", "stream"),
}
"""What each kind uses, beside `name`, `kind` and `held_out_frac`; any other option set is an error."""
_LATER_OPTIONS = (
    *("ids_field", "ids_dtype", "delimiter", "quoting", "dataset", "config", "split", "revision", "stream", "cleaning"),
)
TEXT_SPLITS = ("blank_lines", "lines", "bytes")
_WHERE = ("paths", "dataset")
"""Options that say where the text is: what is there counts by its own digest."""


class SourceSpec(BaseModel):
    """One named body of text.

    Attributes:
        name: Name of the source.
        kind: Format of the source. `mds` are Mosaic Data Shards, `webdataset` tar files, `hub` a Hugging Face data set
            and `python` the standard library of the running interpreter.
        paths: Files, folders, glob patterns or URLs, relative to the recipe file. Empty for `python` and for `hub` with
            a `dataset`.
        text_field: Columns or keys of the text; several are joined by a blank line. For `webdataset` the ending of the
            tar member (by default `txt`), or `json.text` for a key inside a JSON member.
        id_field: Column or key of the document's id; null makes the id from the file's name and the row number.
        ids_field: For `mds` and `hub`, the column of token ids, if the text was published tokenized; replaces
            `text_field`.
        ids_dtype: For `mds`, the type of token ids that are stored as plain bytes.
        delimiter: For `csv`, the character between columns; null is a tab in `.tsv` files and a comma in others.
        quoting: For `csv`, whether columns may be enclosed in double quotes; null is `none` in `.tsv` files and
            `double` in others.
        dataset: For `hub`, the name of the data set, such as `owner/name`.
        config: For `hub`, the configuration of the data set; null is its default.
        split: For `hub`, the split; null is `train`. For `text`, what becomes one document: `lines`, `blank_lines`
            (paragraphs) or `bytes` (whole lines of about 1 MiB in all); null is the whole file.
        revision: For `hub` with `dataset`, the commit; required there, because a branch can change.
        stream: For `hub`, stream the rows instead of downloading them first.
        part: For `python`, the docstrings (`prose`) or the modules without them (`code`).
        held_out_frac: Share of documents held out for evaluation, chosen by a hash of the text.
        cleaning: Rules for this source alone, merged key by key over `data.cleaning`. In a loaded recipe all rules
            that apply to the source.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    kind: Kind
    paths: tuple[str, ...] = ()
    text_field: tuple[Annotated[str, Field(min_length=1)], ...] = Field(default=("text",), min_length=1)
    id_field: str | None = None
    ids_field: str | None = None
    ids_dtype: Literal["uint16", "uint32", "int32", "int64"] | None = None
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    quoting: Literal["double", "none"] | None = None
    dataset: str | None = Field(default=None, pattern=r"^[\w.-]+(/[\w.-]+)?$")
    config: str | None = None
    split: str | None = None
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    stream: bool = False
    part: Literal["prose", "code"] | None = None
    held_out_frac: float = Field(default=0.01, ge=0.0, lt=1.0)
    cleaning: CleaningSpec | None = None

    @model_validator(mode="after")
    def _only_what_the_kind_uses(self) -> SourceSpec:
        used = OPTIONS_BY_KIND[self.kind]
        every = dict.fromkeys(option for options in OPTIONS_BY_KIND.values() for option in options)
        unused = [name for name in every if name not in used and getattr(self, name) != _DEFAULTS[name]]
        if unused:
            raise ValueError(
                f"source {self.name!r} of kind {self.kind!r} does not use {', '.join(unused)}; "
                f"it uses {', '.join(used)}"
            )
        if self.ids_field is not None and self.text_field != _DEFAULTS["text_field"]:
            raise ValueError(f"source {self.name!r} has both ids_field and text_field; one of them holds the content")
        if self.kind == "text" and self.split not in (None, *TEXT_SPLITS):
            raise ValueError(
                f"source {self.name!r} of kind 'text' has split {self.split!r}; {', '.join(TEXT_SPLITS)} are allowed"
            )
        if self.ids_dtype is not None and self.ids_field is None:
            raise ValueError(f"source {self.name!r} has ids_dtype without ids_field")
        if self.kind == "hub":
            self._require_one_place()
        return self

    @model_serializer(mode="wrap")
    def _without_unused_options(self, write: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave out what another kind uses and what is not set, so that a new option changes no older digest.

        What is written of a URL is without its secrets, in plans and in every digest; reading uses `paths` as they are.
        """
        values: dict[str, Any] = write(self)
        if "paths" in values:
            values["paths"] = type(values["paths"])(map(without_secrets, self.paths))  # a list in JSON's form
        return {
            name: value
            for name, value in values.items()
            if name not in _LATER_OPTIONS or getattr(self, name) != _DEFAULTS[name]
        }

    def _require_one_place(self) -> None:
        """Check that a `hub` source is a folder, or a data set pinned to a commit."""
        if self.dataset is not None and self.paths:
            raise ValueError(f"source {self.name!r} has both dataset and paths; one of them says where it is")
        if self.dataset is not None and self.revision is None:
            raise ValueError(
                f"source {self.name!r} needs a revision: a commit of {self.dataset!r}, 40 hexadecimal digits, because "
                "a branch such as main moves and would change what is read"
            )
        if self.dataset is None and self.revision is not None:
            raise ValueError(f"source {self.name!r} has a revision, but no dataset that it belongs to")
        if len(self.paths) > 1:
            raise ValueError(f"source {self.name!r} of kind 'hub' is one folder, but has {len(self.paths)} paths")

    @property
    def content_fields(self) -> tuple[str, ...]:
        """Return the columns that hold a document's content: text, or token ids."""
        if self.ids_field is not None:
            return (self.ids_field,)
        if self.kind == "webdataset" and self.text_field == _DEFAULTS["text_field"]:
            return ("txt",)
        return self.text_field

    @property
    def reading_options(self) -> dict[str, object]:
        """Return the options that change which documents a source of the newer kinds gives, where set."""
        options = [name for name in OPTIONS_BY_KIND[self.kind] if name not in _WHERE]
        values = {name: getattr(self, name) for name in options}
        return {name: value for name, value in values.items() if value != _DEFAULTS[name]}

    @property
    def needs_paths(self) -> bool:
        """Return whether the source is read from `paths` and has none."""
        return self.kind != "python" and self.dataset is None and not self.paths


_DEFAULTS = {name: field.default for name, field in SourceSpec.model_fields.items()}


def require_paths(sources: Sequence[SourceSpec]) -> None:
    """Check that every source says where its text is, before anything is read.

    Raises:
        DataError: Sources that are read from files have no paths; all of them are named.
    """
    unfilled = [source.name for source in sources if source.needs_paths]
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
        path: Folder or `tokenizer.json` in Hugging Face's format, or a folder's URL such as `hf://owner/name`; null
            trains a tokenizer on the sources.
        train_vocab_size: Entries of a trained tokenizer, special tokens included, before padding.
        train_bytes: Maximum bytes of text that train the tokenizer, spread over the sources.
        pad_vocab_to: Pad the model's vocabulary to a multiple of this number of entries.
        allow_lost_text: Use a loaded tokenizer even if it loses some text of the sources. Bits per byte then count
            what is left.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str | None = None
    train_vocab_size: Count = Field(default=4096, ge=300, le=1 << 22)
    train_bytes: Count = Field(default=50_000_000, ge=1, le=1 << 40)
    pad_vocab_to: Count = Field(default=64, ge=1, le=1 << 20)
    allow_lost_text: bool = False

    @model_serializer(mode="wrap")
    def _without_what_is_not_set(self, write: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave out the newest key where it is not set, so that older digests stay, and the secrets of a URL."""
        values: dict[str, object] = write(self)
        if self.path is not None and "path" in values:
            values["path"] = without_secrets(self.path)
        return {name: value for name, value in values.items() if name != "allow_lost_text" or value}


class DataSpec(BaseModel):
    """The recipe's data section.

    Attributes:
        cleaning: Rules by which documents of all sources are removed; null removes none.
        sources: Where the text comes from.
        tokenizer: The one tokenizer of the study.
        stores: Folder of the tokenized text, relative to the current folder. Recipes can share it.
        expected_mean_tokens: Expected content tokens of a mean sequence at length 1,024, until the stores exist.
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
