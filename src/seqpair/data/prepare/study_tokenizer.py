"""What a preparation begins with: the hashes of all files, and the study's tokenizer."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from seqpair.data.prepare.build import ADDRESS_LETTERS
from seqpair.data.prepare.lock import locked
from seqpair.data.prepare.tokenizer_text import training_texts
from seqpair.data.sources.documents import Source
from seqpair.data.sources.fingerprint import file_of, look_at, trained_address
from seqpair.data.store.manifest import PreparedIndex, SeenFile
from seqpair.data.tokenizer.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from seqpair.files import replacing_folder, write_bytes
from seqpair.recipe.data_spec import TokenizerSpec
from seqpair.text import format_bytes, note

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
            loaded = load_tokenizer(Path(spec.path), spec.pad_vocab_to)
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


def trained_folder(
    opened: Sequence[Source], files: dict[str, tuple[SeenFile, ...]], spec: TokenizerSpec, store_folder: Path
) -> Path:
    """Return where a tokenizer trained on these sources lies."""
    address = trained_address(opened, files, spec)
    return store_folder / "tokenizers" / f"trained-{address[:ADDRESS_LETTERS]}"
