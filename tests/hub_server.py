"""A stand-in for the Hugging Face Hub on loopback: repositories in memory, git-lfs uploads, and planned faults.

Its clients need `HF_ENDPOINT=<url>`, `HF_HUB_DISABLE_XET=1` and any `HF_TOKEN`: the Hub's own transfer protocol, xet,
cannot be imitated cheaply.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
LARGE = (".safetensors", ".parquet")
API = re.compile(r"/api/(model|dataset)s/([^/]+/[^/]+)/(branch|preupload|commit|refs|revision|tree)/?([^/]*)/?(.*)")
RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


class Hub(ThreadingHTTPServer):
    """The server: `trees` has each repository's files by branch, `faults` what the next matching requests get."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.trees: dict[str, dict[str, dict[str, bytes]]] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.faults: list[tuple[str, int]] = []  # (a regular expression for "METHOD path", a status; 0: hang up)

    def put(self, repository: str, branch: str, files: dict[str, bytes]) -> None:
        """Give a branch of a repository its files without a request."""
        self.trees.setdefault(repository, {})[branch] = {".gitattributes": ATTRIBUTES} | files

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, value: object = None, headers: dict[str, str] | None = None) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _missing(self, kind: str) -> None:
        self._answer(404, {"error": kind}, {"X-Error-Code": kind})

    def _do(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self._body()
        line = f"{self.command} {path}"
        self.server.requests.append(line)
        for fault in self.server.faults:
            if re.search(fault[0], line):
                self.server.faults.remove(fault)
                self.close_connection = True
                if fault[1]:  # else the connection ends without an answer
                    self._answer(
                        fault[1], {"error": "planned"}, {"RateLimit": '"api";r=0;t=55'} if fault[1] == 429 else None
                    )
                return
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif path.endswith("/info/lfs/objects/batch"):
            self._answer(200, {"transfer": "basic", "objects": [self._lfs(one) for one in json.loads(body)["objects"]]})
        elif path.startswith("/upload/"):
            self.server.blobs[path.removeprefix("/upload/")] = body
            self._answer(200, {})
        elif found := API.fullmatch(path):
            self._api(*found.groups(), body)
        elif found := RESOLVE.fullmatch(path):
            self._resolve(*found.groups())
        else:
            self._missing("RepoNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = _do  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _create(self, given: dict) -> None:
        name = f"{given['organization']}/{given['name']}" if given.get("organization") else given["name"]
        key = ("datasets/" if given.get("type") == "dataset" else "") + name
        known = key in self.server.trees
        if not known:
            self.server.put(key, "main", {})
        self._answer(409 if known else 200, {"url": f"{self.server.url}/{key}", "id": name})

    def _lfs(self, one: dict) -> dict:
        link = {"upload": {"href": f"{self.server.url}/upload/{one['oid']}"}}
        return one if one["oid"] in self.server.blobs else one | {"actions": link}

    def _api(self, kind: str, name: str, verb: str, revision: str, rest: str, body: bytes) -> None:
        trees = self.server.trees.get(("datasets/" if kind == "dataset" else "") + name)
        if trees is None:
            return self._missing("RepoNotFound")
        if verb == "refs":
            branches = [{"name": one, "ref": f"refs/heads/{one}", "targetCommit": commit(trees[one])} for one in trees]
            return self._answer(200, {"branches": branches, "tags": [], "converts": []})
        if verb == "branch":
            known = revision in trees
            trees.setdefault(revision, dict(trees["main"]))
            return self._answer(409 if known else 200, {})
        tree = tree_of(trees, revision)
        if tree is None:
            return self._missing("RevisionNotFound")
        if verb == "preupload":
            files = [
                {"path": one["path"], "uploadMode": "lfs" if one["path"].endswith(LARGE) else "regular"}
                | {"shouldIgnore": False, "oid": None}
                for one in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": files})
        if verb == "commit":
            self._commit(tree, [json.loads(line) for line in body.splitlines()])
            url = f"{self.server.url}/{'datasets/' if kind == 'dataset' else ''}{name}/commit/{commit(tree)}"
            return self._answer(200, {"success": True, "commitOid": commit(tree), "commitUrl": url})
        if verb == "revision":
            siblings = [{"rfilename": path} for path in sorted(tree)]
            return self._answer(200, {"id": name, "sha": commit(tree), "siblings": siblings, "private": False})
        inside = {path: data for path, data in tree.items() if path.startswith(rest)}
        if not inside:
            return self._missing("EntryNotFound")
        return self._answer(200, [entry(path, data) for path, data in sorted(inside.items())])

    def _commit(self, tree: dict[str, bytes], lines: list[dict]) -> None:
        for line in lines:
            kind, value = line["key"], line["value"]
            if kind == "file":
                tree[value["path"]] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                tree[value["path"]] = self.server.blobs[value["oid"]]
            elif kind == "deletedFile":
                tree.pop(value["path"], None)

    def _resolve(self, kind: str | None, name: str, revision: str, path: str) -> None:
        trees = self.server.trees.get((kind or "") + name)
        if trees is None:
            return self._missing("RepoNotFound")
        tree = tree_of(trees, revision)
        if tree is None:
            return self._missing("RevisionNotFound")
        if path not in tree:
            return self._missing("EntryNotFound")
        data = tree[path]
        tag = f'"{hashlib.sha256(data).hexdigest()}"'
        linked = {"X-Repo-Commit": commit(tree), "ETag": tag, "X-Linked-Etag": tag, "X-Linked-Size": str(len(data))}
        return self._answer(200, data, linked)


def tree_of(trees: dict[str, dict[str, bytes]], revision: str) -> dict[str, bytes] | None:
    """Return the files of a branch or of the commit of one."""
    return trees.get(revision) or next((tree for tree in trees.values() if commit(tree) == revision), None)


def commit(tree: dict[str, bytes]) -> str:
    """Return 40 digits that name a tree's content."""
    state = hashlib.sha1(usedforsecurity=False)
    for path, data in sorted(tree.items()):
        state.update(path.encode() + b"\0" + data)
    return state.hexdigest()


def entry(path: str, data: bytes) -> dict:
    """Return what a listing says of a file."""
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    said = {"type": "file", "path": path, "size": len(data), "oid": blob}
    if path.endswith(LARGE):
        said["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return said


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Run the stand-in on a thread of this process."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
