"""A release goes to the Hugging Face Hub, one commit a revision, and each is read back before the next begins.

A published suite's usual faults are branches that are missing because of rate limits, and branches with the weights of
others. So a limit is waited for, and a revision counts only when the Hub lists the digests of its own files.
"""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from seqpair.errors import PublishError, install_extra, needs_extra
from seqpair.files import TEMPORARY_PREFIX, read_json
from seqpair.hub.revision import (
    GIT_ATTRIBUTES,
    MAIN,
    ORDER_FOLDER,
    OWNER,
    RELEASE_NAME,
    FileDigest,
    Listing,
    digest_files,
    listing_faults,
    read_revision,
)
from seqpair.text import note

LEAST_HUB_MAJOR = 2
_TRIES = 6
"""So often is a request repeated after a fault of the server or of the connection; a rate limit has no limit."""
_LONGEST_WAIT_SECONDS = 300.0
_RATE_LIMIT, _SERVER_FAULT = 429, 500
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Upload:
    """One folder that becomes one commit of one revision.

    Attributes:
        repository: `OWNER/NAME`.
        kind: `model` or `dataset`.
        revision: The branch.
        folder: What is uploaded.
        bytes: Its size.
    """

    repository: str
    kind: str
    revision: str
    folder: Path
    bytes: int


class HubAccess:
    """The Hub through its own library; requests are repeated where that helps.

    Args:
        wait: How to wait so many seconds.

    Raises:
        PublishError: The library is missing, or too old.
    """

    def __init__(self, wait: Callable[[float], None] = time.sleep) -> None:
        with needs_extra("publishing", "hub", PublishError):
            version: str = importlib.import_module("huggingface_hub").__version__
        if int(version.split(".")[0]) < LEAST_HUB_MAJOR:
            raise PublishError(
                "publishing needs another version of huggingface_hub",
                seen=version,
                allowed=f">={LEAST_HUB_MAJOR}",
                fix=install_extra("hub"),
            )
        from huggingface_hub import HfApi

        self.api = HfApi()
        self._wait = wait

    def asked(self, purpose: str, request: Callable[[], Answer]) -> Answer:
        """Return the answer to a request, repeated after a rate limit, a fault of the server or a lost connection.

        Args:
            purpose: What it is for, as in "uploading step12".
            request: The request; it may be made several times.

        Raises:
            PublishError: The Hub refuses, or does not answer after several tries.
        """
        wait, tries = 1.0, 0
        while True:
            try:
                return request()
            except Exception as error:
                status, limit = _status_of(error)
                if status is None and not _is_of_connection(error):
                    raise
                tries += status != _RATE_LIMIT
                if (status is not None and status < _SERVER_FAULT and status != _RATE_LIMIT) or tries >= _TRIES:
                    raise PublishError(
                        f"the Hub did not allow {purpose}" if status else f"the Hub did not answer {purpose}",
                        seen=str(error).splitlines()[0],
                        fix="check the name and the token (`hf auth login`), then repeat the command: it resumes",
                    ) from error
                pause = wait if limit is None else limit
                note(f"{purpose}: {status or 'no answer'}; trying again in {pause:.0f} s")
                self._wait(pause)
                wait = min(2 * wait, _LONGEST_WAIT_SECONDS)

    def revisions(self, repository: str, kind: str = "model") -> list[str]:
        """Return the names of a repository's branches."""
        refs = self.asked(f"the revisions of {repository}", lambda: self.api.list_repo_refs(repository, repo_type=kind))
        return sorted(branch.name for branch in refs.branches)

    def listing(self, repository: str, revision: str, kind: str = "model") -> Listing:
        """Return a revision's files with the digests that the Hub keeps."""
        from huggingface_hub.hf_api import RepoFile

        def request() -> list[Any]:
            return list(self.api.list_repo_tree(repository, recursive=True, revision=revision, repo_type=kind))

        return {
            one.path: FileDigest(
                bytes=one.size, sha256=one.lfs.sha256 if one.lfs else None, git=None if one.lfs else one.blob_id
            )
            for one in self.asked(f"the files of {repository}@{revision}", request)
            if isinstance(one, RepoFile) and one.path != GIT_ATTRIBUTES
        }

    def read(self, repository: str, revision: str, name: str) -> bytes:
        """Return the content of one small file; nothing is kept in a cache."""
        from huggingface_hub.utils import get_session, hf_raise_for_status

        url = f"{self.api.endpoint}/{repository}/resolve/{quote(revision, safe='')}/{quote(name)}"

        def request() -> bytes:
            response = get_session().get(url, headers=self.api._build_hf_headers(), follow_redirects=True)
            hf_raise_for_status(response)
            content: bytes = response.content
            return content

        return self.asked(f"{name} of {repository}@{revision}", request)

    def download(self, repository: str, revision: str) -> Path:
        """Return a folder with all files of a revision, in the Hub library's cache."""
        from huggingface_hub import snapshot_download

        def request() -> str:
            return str(snapshot_download(repository, revision=revision))

        return Path(self.asked(f"downloading {repository}@{revision}", request))


def _status_of(error: Exception) -> tuple[int | None, float | None]:
    """Return the status of a refused request and the seconds that the server asks to wait, from a chain of errors."""
    from huggingface_hub.utils import parse_ratelimit_headers

    link: BaseException | None = error
    while link is not None:
        response = getattr(link, "response", None)
        if response is not None:
            limit = parse_ratelimit_headers(response.headers)
            if limit is not None and limit.remaining == 0:
                return response.status_code, float(limit.reset_in_seconds + 1)
            with contextlib.suppress(TypeError, ValueError):  # no such header, or a date
                return response.status_code, float(response.headers.get("Retry-After"))
            return response.status_code, None
        link = link.__cause__
    return None, None


def _is_of_connection(error: BaseException | None) -> bool:
    """Return whether a connection failed; the Hub's library passes on the errors of an HTTP client of its own."""
    while error is not None:
        names = {kind.__name__ for kind in type(error).__mro__}
        if isinstance(error, ConnectionError | TimeoutError) or names & {"TransportError", "LocalEntryNotFoundError"}:
            return True
        error = error.__cause__
    return False


def planned_uploads(out: Path, owner: str) -> list[Upload]:
    """Return what publishing a release uploads, in this order: each member's revisions, then the order.

    Args:
        out: The release.
        owner: The user or organisation.

    Raises:
        PublishError: There is no release, it is not complete, or its cards name another owner.
    """
    if not OWNER.fullmatch(owner):
        raise PublishError(
            "this is no user or organisation of the Hub", seen=repr(owner), allowed="letters, digits, '.', '_' and '-'"
        )
    path = out / RELEASE_NAME
    if not path.is_file():
        raise PublishError("this folder is not a release", seen=out, fix="make one: `seqpair release STUDY OUT`")
    keys = {"owner": str, "study": str, "members": dict}
    contents = read_json(path, PublishError, "make the release again: `seqpair release STUDY OUT`", keys)
    if contents["owner"] not in ("", owner):
        raise PublishError(
            "the cards of the release name another owner", seen=contents["owner"], allowed=owner,
            fix=f"publish it to {contents['owner']}, or release again with --owner {owner}",
        )  # fmt: skip
    uploads = []
    for member, value in contents["members"].items():
        # `main` last: whoever finds the newest weights finds their history as well.
        for name in sorted(value["revisions"], key=lambda name: name == MAIN):
            uploads.append((f"{owner}/{value['repository']}", "model", name, out / member / name))
    uploads.append((f"{owner}/{contents['study']}-{ORDER_FOLDER}", "dataset", MAIN, out / ORDER_FOLDER))
    missing = [str(folder) for *_, folder in uploads if not folder.is_dir()]
    if missing or not contents["members"]:
        raise PublishError(
            "the release is not complete", seen=", ".join(missing) or "no member", fix="repeat `seqpair release`"
        )
    return [Upload(*one, sum(path.stat().st_size for path in one[-1].rglob("*"))) for one in uploads]


def publish_release(uploads: list[Upload], *, private: bool = False, access: HubAccess | None = None) -> Iterator[str]:
    """Upload revisions one after another, and yield a line for each; what is there already is left alone.

    Args:
        uploads: From `planned_uploads`.
        private: Make new repositories private.
        access: The Hub.

    Raises:
        PublishError: The Hub refuses or does not answer, or lists other files than were uploaded.
    """
    hub = access or HubAccess()
    known: set[str] = set()
    for one in uploads:
        wanted = _release_files(one)
        place = f"{one.repository}@{one.revision}"
        if one.repository not in known:
            known.add(one.repository)
            make = partial(hub.api.create_repo, one.repository, repo_type=one.kind, private=private, exist_ok=True)
            hub.asked(f"creating {one.repository}", make)
        if one.revision not in hub.revisions(one.repository, one.kind):
            branch = partial(hub.api.create_branch, one.repository, branch=one.revision, repo_type=one.kind)
            hub.asked(f"creating {place}", partial(branch, exist_ok=True))
        elif not listing_faults(hub.listing(one.repository, one.revision, one.kind), wanted, "the release"):
            yield f"{place}: there already"
            continue
        upload = partial(
            hub.api.upload_folder,
            repo_id=one.repository,
            folder_path=one.folder,
            repo_type=one.kind,
            revision=one.revision,
            delete_patterns="*",
            ignore_patterns=[f"{TEMPORARY_PREFIX}*"],
            commit_message=f"Publish {one.revision}",
        )
        hub.asked(f"uploading {place}", upload)
        faults = listing_faults(hub.listing(one.repository, one.revision, one.kind), wanted, "the release")
        if faults:
            raise PublishError(
                f"the Hub lists files other than those uploaded to {place}",
                seen="; ".join(faults),
                fix="repeat the command; it uploads this revision again",
            )
        yield f"{place}: {len(wanted)} files uploaded and read back"


def _release_files(upload: Upload) -> Listing:
    """Return the files to upload, after comparing those of a revision with its record."""
    files = digest_files(upload.folder, git=True)
    faults = read_revision(upload.folder).faults_of(files) if upload.kind == "model" else []
    if faults:
        raise PublishError(
            f"the revision {upload.folder} is damaged", seen="; ".join(faults), fix="repeat `seqpair release`"
        )
    return files
