"""What a preparation begins with: the hashes of all files, and the study's tokenizer, trained on a fixed sample."""

from __future__ import annotations

import contextlib
import heapq
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from seqpair.data.prepare.build import locked
from seqpair.data.sources.documents import Document, Source, Tally
from seqpair.data.sources.fingerprint import ADDRESS_LETTERS, file_of, look_at, trained_address
from seqpair.data.sources.opening import training_documents
from seqpair.data.sources.remote import is_url, join_url, look_at_url
from seqpair.data.store.manifest import PreparedIndex, SeenFile
from seqpair.data.tokenizer.requirements import require_exportable
from seqpair.data.tokenizer.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from seqpair.errors import DataError
from seqpair.files import hash64, replacing_folder, write_bytes
from seqpair.recipe.data_spec import TokenizerSpec
from seqpair.text import Progress, format_bytes, note

_LEAST_SAMPLED = 8
"""No document is more than this part of a sample, as long as there are others."""
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_NOTES = TypeAdapter(dict[str, tuple[SeenFile, ...]])


def look_at_files(
    opened: Sequence[Source], tokenizer: TokenizerSpec, before: PreparedIndex | None, notes: Path | None = None
) -> dict[str, tuple[SeenFile, ...]]:
    """Return the files of every source with their hashes (and under "" a loaded tokenizer's).

    Args:
        opened: The sources.
        tokenizer: The recipe's tokenizer.
        before: What the recipe was made into; files that are as they were then are not hashed again.
        notes: Where the hashes are written down until the preparation is complete, so that a repetition or
            another shard need not hash either.
    """
    earlier = before.files if before else {}
    if not earlier and notes is not None and notes.is_file():
        with contextlib.suppress(ValidationError):  # a damaged note costs hashing, no more
            earlier = _NOTES.validate_json(notes.read_bytes())
    files = {source.spec.name: look_at(source.files, earlier.get(source.spec.name, ())) for source in opened}
    if tokenizer.path is not None:
        given = Path(tokenizer.path)
        file = given / "tokenizer.json" if given.is_dir() else given
        if file.is_file():
            files[""] = look_at([file_of(file)], earlier.get("", ()))
    if notes is not None and files != earlier:
        write_bytes(notes, _NOTES.dump_json(files))
    return files


def say_what_changed(
    opened: Sequence[Source], files: dict[str, tuple[SeenFile, ...]], before: PreparedIndex | None
) -> None:
    """Tell which sources are not what they were when this recipe was last prepared."""
    for source in opened if before else ():
        assert before is not None
        name = source.spec.name
        now = {(file.label, file.sha256) for file in files[name]}
        then = {(file.label, file.sha256) for file in before.files.get(name, ())}
        if now != then:
            changed = sorted({label for label, _ in now ^ then})
            note(
                f"source {name!r} has changed since it was prepared ({len(changed)} files, first {changed[0]}); "
                f"its store gets a new address, {before.stores.get(name)} stays"
            )


def study_tokenizer(
    opened: Sequence[Source],
    files: dict[str, tuple[SeenFile, ...]],
    spec: TokenizerSpec,
    store_folder: Path,
) -> tuple[Tokenizer, Path]:
    """Load or train the tokenizer and keep it among the stores; a shard waits for another that trains it."""
    with locked(store_folder / "tokenizers", "the tokenizer"):
        if spec.path is not None:
            loaded = loaded_tokenizer(spec.path, spec.pad_vocab_to)
            require_exportable(json.loads(loaded.backend.to_str()), loaded.names, spec.path)
            folder = store_folder / "tokenizers" / f"loaded-{loaded.digest[:ADDRESS_LETTERS]}"
            if not folder.is_dir():
                with replacing_folder(folder) as partial:
                    loaded.save(partial)
            return loaded, folder
        folder = trained_folder(opened, files, spec, store_folder)
        if not folder.is_dir():
            note(
                f"training a tokenizer of {spec.train_vocab_size} entries "
                f"on up to {format_bytes(spec.train_bytes)} of {', '.join(source.spec.name for source in opened)}"
            )
            trained = train_tokenizer(training_texts(opened, spec.train_bytes), spec)
            with replacing_folder(folder) as partial:
                trained.save(partial)
        return load_tokenizer(folder, spec.pad_vocab_to), folder


def loaded_tokenizer(place: str, pad_vocab_to: int) -> Tokenizer:
    """Load a tokenizer from a folder, a file, or the URL of a folder, such as `hf://owner/name`.

    Raises:
        DataError: It is not there, or it is none that can be used.
    """
    if not is_url(place):
        return load_tokenizer(Path(place), pad_vocab_to)
    with tempfile.TemporaryDirectory() as folder:
        for name in _TOKENIZER_FILES:
            found = look_at_url(join_url(place, name))
            if found is not None:
                (Path(folder) / name).write_bytes(found.read_bytes())
        if not (Path(folder) / _TOKENIZER_FILES[0]).is_file():
            raise DataError(
                "there is no tokenizer at this URL",
                seen=place,
                allowed=f"a folder with {_TOKENIZER_FILES[0]}",
                fix="correct `data.tokenizer.path`",
            )
        return load_tokenizer(Path(folder), pad_vocab_to)


def trained_folder(
    opened: Sequence[Source], files: dict[str, tuple[SeenFile, ...]], spec: TokenizerSpec, store_folder: Path
) -> Path:
    """Return where a tokenizer trained on these sources lies."""
    address = trained_address(opened, files, spec)
    return store_folder / "tokenizers" / f"trained-{address[:ADDRESS_LETTERS]}"


def training_texts(sources: Sequence[Source], budget_bytes: int) -> Iterator[str]:
    """Yield training text of about `budget_bytes` UTF-8 bytes in all, never held-out text.

    The sources share the budget evenly; what a small one leaves goes to the larger ones. Sources of token ids
    have no text.

    Raises:
        DataError: No source has text.
    """
    readable = [source for source in sources if source.spec.ids_field is None]
    if not readable:
        raise DataError(
            "a tokenizer cannot be trained on token ids",
            seen="sources with `ids_field` only",
            allowed="a source with text, or the tokenizer that the ids were published with",
            fix="set `data.tokenizer.path`",
        )
    by_size = sorted(readable, key=lambda source: (sum(file.size_bytes for file in source.files), source.spec.name))
    left = budget_bytes
    for index, source in enumerate(by_size):
        share = left // (len(by_size) - index)
        for document in sampled_documents(source, share):
            left -= document.text_bytes
            yield document.text


def sampled_documents(source: Source, budget_bytes: int) -> list[Document]:
    """Return training documents of about `budget_bytes` UTF-8 bytes, never held-out ones.

    Those with the smallest hashes of their ids are taken, so the sample is spread over the source and depends on
    nothing but the source; the last one is cut so that the budget is kept. A document larger than an eighth of the
    budget, such as a file of a whole language, counts as that much, and the long ones then share what is left evenly.
    Memory is bounded by the budget and eight of the largest documents. Documents that were published tokenized, without
    their text, are left out.
    """
    most_bytes = max(1, budget_bytes // _LEAST_SAMPLED)
    # A heap with the largest hash on top; the count decides between equal ids, which are refused later on.
    kept: list[tuple[int, str, int, Document]] = []
    total, tally = 0, Tally()
    progress = Progress(f"sampling {source.spec.name}", sum(file.size_bytes for file in source.files) / 1e6, "MB")
    for count, document in enumerate(training_documents(source, tally)):
        progress.update(tally.bytes_done / 1e6)
        if not document.text:
            continue
        heapq.heappush(kept, (-hash64(document.id), document.id, count, document))
        total += min(document.text_bytes, most_bytes)
        while kept and total - min(kept[0][3].text_bytes, most_bytes) >= budget_bytes:
            total -= min(heapq.heappop(kept)[3].text_bytes, most_bytes)
    progress.update(tally.bytes_done / 1e6)
    progress.finish(f"{len(kept):,} documents taken")
    documents = [document for *_, document in sorted(kept, key=lambda item: item[:3], reverse=True)]
    if any(document.text_bytes > most_bytes for document in documents):
        return _shared_evenly(documents, budget_bytes)
    if documents and total > budget_bytes:
        documents[-1] = _cut(documents[-1], documents[-1].text_bytes - (total - budget_bytes))
    return documents


def _shared_evenly(documents: Sequence[Document], budget_bytes: int) -> list[Document]:
    """Return the documents cut to one length, the short ones whole, so that together they have the budget."""
    left, taken = budget_bytes, dict[int, Document]()
    for count, index in enumerate(sorted(range(len(documents)), key=lambda index: documents[index].text_bytes)):
        taken[index] = _cut(documents[index], left // (len(documents) - count))
        left -= taken[index].text_bytes
    return [taken[index] for index in range(len(documents)) if taken[index].text]


def _cut(document: Document, keep_bytes: int) -> Document:
    """Return a document's beginning."""
    if document.text_bytes <= keep_bytes:
        return document
    text = document.text.encode("utf-8")[:keep_bytes].decode("utf-8", errors="ignore")
    return replace(document, text=text, text_bytes=len(text.encode("utf-8")))
