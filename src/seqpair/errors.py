"""Errors that a user can cause, each with the same four parts, and none of which shows the secrets of a URL."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<user>[^/\s@?#'\"]*@)?(?P<rest>[^\s'\"<>]*)")
_SECRET = re.compile(
    r"x-(amz|goog|ms|oss|cos)-.*|awsaccesskeyid|googleaccessid|key-pair-id|policy|expires|sig|(.*[-_])?signature|hmac"
    r"|.*token|.*secret.*|.*passw(or)?d|pwd|.*credentials?|(.*[-_])?(api|access|private|auth)?[-_]?key|auth(orization)?",
    re.IGNORECASE,
)
"""Names of what signs a URL, or lets in whoever has it."""
_OF_A_SHARED_SIGNATURE = ("se", "sp", "sr", "st", "sv", "ss", "srt", "spr", "sip", "si")
"""Azure's names for what its `sig` signs; alone they may mean anything."""


def without_secrets(text: str) -> str:
    """Return a text in which every URL is without its user, its password and what signs it.

    This is what is stored and shown of a URL. One without any of them stays as it is, to the letter.
    """
    return _URL.sub(_public_url, text) if "://" in text else text


def _public_url(found: re.Match[str]) -> str:
    # In hf:// the part before an @ is a repository's name.
    user = found["user"] or "" if found["scheme"] == "hf" else ""
    path, mark, query = found["rest"].partition("?")
    parts = query.split("&")
    names = [part.partition("=")[0].lower() for part in parts]
    signed = "sig" in names
    kept = [
        part
        for part, name in zip(parts, names, strict=True)
        if not _SECRET.fullmatch(name) and not (signed and name in _OF_A_SHARED_SIGNATURE)
    ]
    if len(kept) == len(parts):
        return f"{found['scheme']}://{user}{found['rest']}"
    return f"{found['scheme']}://{user}{path}" + (mark + "&".join(kept) if kept else "")


class SeqpairError(Exception):
    """A fault that the user can correct.

    Args:
        what: What was wrong, as one clause without a final stop.
        seen: The value that was seen.
        allowed: The values that are allowed.
        fix: What to do next.
    """

    exit_code = 2

    def __init__(self, what: str, *, seen: object = None, allowed: object = None, fix: str | None = None) -> None:
        what, fix = without_secrets(what), None if fix is None else without_secrets(fix)
        seen, allowed = (without_secrets(one) if isinstance(one, str) else one for one in (seen, allowed))
        self.what, self.seen, self.allowed, self.fix = what, seen, allowed, fix
        parts = [what]
        if seen is not None:
            parts.append(f"seen: {seen}")
        if allowed is not None:
            parts.append(f"allowed: {allowed}")
        if fix is not None:
            parts.append(f"next: {fix}")
        super().__init__(without_secrets("\n  ".join(parts)))


def require_system() -> None:
    """Refuse a system without the file locks and signals that everything here rests on.

    Raises:
        SeqpairError: It is Windows.
    """
    if sys.platform == "win32":
        raise SeqpairError(
            "seqpair needs Linux or macOS; on Windows use the Windows Subsystem for Linux",
            fix="use Linux or macOS, or the Windows Subsystem for Linux",
        )


@contextlib.contextmanager
def needs_extra(what: str, extra: str, fault: type[SeqpairError], instead: str = "") -> Iterator[None]:
    """Turn a failed import inside the block into an error that says what to install.

    Args:
        what: What needs the import.
        extra: The optional part of the package that has it.
        fault: The error to raise.
        instead: What else one can do, to be added to the advice.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise fault(
            f"{what} needs a package that is not installed",
            seen=f"no module {error.name!r}",
            fix=install_extra(extra) + instead,
        ) from error


def install_extra(*extras: str) -> str:
    """Return how to install optional packages: from a checkout, or from a release."""
    names = ",".join(extras)
    return f'`pip install ".[{names}]"` in a checkout, or `pip install "seqpair[{names}]"` for a release'


class RecipeError(SeqpairError):
    """A recipe, a preset, a `--set` or a plan that cannot be used."""


class DataError(SeqpairError):
    """A source that is missing, empty or unreadable."""


class StoreError(SeqpairError):
    """A store that is missing, changed, damaged or made for another tokenizer."""


class CheckpointError(SeqpairError):
    """A checkpoint that is missing, damaged or belongs to another plan."""


class DiskFullError(SeqpairError):
    """The disk cannot hold what has to be written; what was there before is untouched."""

    exit_code = 5


class DamagedLinesError(SeqpairError, ValueError):
    """A file of JSON rows with a line that is none."""


class RunLockedError(SeqpairError):
    """Another process is using the run directory."""

    exit_code = 4


class TrainingError(SeqpairError):
    """Training cannot go on: a loss that is not finite, a ledger that does not match."""

    exit_code = 3


class NotFiniteError(TrainingError):
    """A loss or a gradient norm that is not a finite number."""


class ExportError(SeqpairError):
    """An export that would not compute what the trained model computes; nothing was written."""

    exit_code = 6


class PublishError(SeqpairError):
    """A release that cannot be published as it is, or a Hub that refuses it or does not answer."""


class HubFolderError(SeqpairError):
    """A Hugging Face folder that cannot be a starting point: what it computes cannot be expressed here, or differs."""


class EvaluationError(SeqpairError):
    """An evaluation that cannot be run on what was given."""


class UnsafeModelError(HubFolderError, EvaluationError):
    """Files of a model that are refused unread: a pickle, code, a shard outside its folder, a header without end."""

    exit_code = 6


class VerificationError(SeqpairError):
    """Something of a study is not what its plans, stores and records say."""

    exit_code = 3
