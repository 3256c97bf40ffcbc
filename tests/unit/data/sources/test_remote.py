import base64
import functools
import gzip
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from mds_writer import write_mds

from seqpair.data.prepare.preparation import prepare
from seqpair.data.sources.documents import Document, Tally, documents
from seqpair.data.sources.fingerprint import look_at, store_address
from seqpair.data.sources.opening import open_source
from seqpair.data.sources.remote import RemoteFile
from seqpair.data.store.counts import plan_member
from seqpair.errors import DataError
from seqpair.recipe.data_spec import SourceSpec, TokenizerSpec
from seqpair.recipe.diff import diff_plans
from seqpair.recipe.load import load_recipe

TEXTS = [f"document number {index}: river stone lantern" for index in range(40)]
LINES = "".join(json.dumps({"text": text, "id": f"d{index}"}) + "\n" for index, text in enumerate(TEXTS)).encode()


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def read(spec: SourceSpec) -> tuple[list[Document], Tally]:
    tally = Tally()
    return list(documents(open_source(spec), tally)), tally


def upload(system: Any, folder: Path, root: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            system.pipe(f"{root}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def spec_of(kind: Any, *paths: str, **options: Any) -> SourceSpec:
    return SourceSpec(name="s", kind=kind, paths=paths, **options)


def test_every_kind_of_file_is_read_from_a_url(memory: Any, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet", row_group_size=7)
    table = "text,n\r\n" + "".join(f"{text},1\r\n" for text in TEXTS)
    memory.pipe("/x/a.jsonl", LINES)
    memory.pipe("/x/b/a.jsonl.zst", zstandard.compress(LINES))
    memory.pipe("/x/b/.hidden.jsonl", LINES)
    memory.pipe("/x/a.csv.gz", gzip.compress(table.encode()))
    memory.pipe("/x/a.parquet", (tmp_path / "a.parquet").read_bytes())
    for index, text in enumerate(TEXTS):
        memory.pipe(f"/texts/{index:02d}.txt", text.encode())
    upload(
        memory, write_mds(tmp_path / "m", {"text": "str"}, [{"text": text} for text in TEXTS], packing="zstd"), "/mds/a"
    )
    for spec in (
        spec_of("jsonl", "memory://x/a.jsonl"),
        spec_of("jsonl", "memory://x/b/"),
        spec_of("jsonl", "memory://x/b/*.zst"),
        spec_of("csv", "memory://x"),
        spec_of("parquet", "memory://x/*.parquet"),
        spec_of("text", "memory://texts"),
        spec_of("mds", "memory://mds/a"),
        spec_of("mds", "memory://mds"),
    ):
        found, tally = read(spec)
        assert [document.text for document in found] == TEXTS, spec
        assert tally.rejected == {}
    both = open_source(spec_of("jsonl", "memory://x"))
    assert [file.label for file in both.files] == ["a.jsonl", "b/a.jsonl.zst"]


def test_an_address_follows_the_content_of_a_remote_file(memory: Any) -> None:
    def address() -> str:
        source = open_source(spec_of("jsonl", "memory://x/a.jsonl"))
        return store_address(source, look_at(source.files, ()), "t")

    memory.pipe("/x/a.jsonl", LINES)
    first = address()
    assert address() == first
    memory.pipe("/x/a.jsonl", LINES.replace(b"river", b"ocean"))
    assert address() != first


def test_a_servers_tag_stands_for_the_content_but_a_weak_one_does_not(memory: Any) -> None:
    memory.pipe("/x/a.jsonl", LINES)
    files = open_source(spec_of("jsonl", "memory://x/a.jsonl")).files
    size = len(LINES)

    def digest(identity: str | None) -> str:
        [seen] = look_at([type(files[0])(RemoteFile("memory://x/a.jsonl", size, identity), "a", size, 0)], ())
        return seen.sha256

    assert len({digest("ETag:1"), digest("ETag:2"), digest(None)}) == 3


def test_what_is_not_there_or_cannot_be_read_is_one_clear_error(memory: Any) -> None:
    memory.pipe("/x/a.txt", b"text")
    with pytest.raises(DataError, match="no file of kind 'jsonl' at 'memory://x'"):
        open_source(spec_of("jsonl", "memory://x"))
    with pytest.raises(DataError, match=r"there is no index\.json"):
        open_source(spec_of("mds", "memory://x"))
    with pytest.raises(DataError, match="not a URL that can be read"):
        open_source(spec_of("text", "nonsense://x/a.txt"))
    with pytest.raises(DataError, match="partly here and partly elsewhere"):
        open_source(spec_of("text", "memory://x/a.txt", "here.txt"))
    source = open_source(spec_of("text", "memory://x/a.txt"))
    memory.pipe("/x/a.txt", b"longer text")
    with pytest.raises(DataError, match="has changed while it was read"):
        list(documents(source, Tally()))
    memory.rm("/x/a.txt")
    with pytest.raises(DataError, match="cannot be read"):
        list(documents(source, Tally()))


def test_a_file_url_is_a_path_and_urls_stay_urls_in_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    source = open_source(spec_of("jsonl", f"file://{tmp_path}/a.jsonl"))
    assert source.files[0].path == tmp_path / "a.jsonl"
    recipe = tmp_path / "r.yaml"
    recipe.write_text("extends: 1m\ndata: {sources: [{name: corpus, kind: jsonl, paths: [s3://b/x.jsonl, y.jsonl]}]}\n")
    assert load_recipe(str(recipe)).data.sources[0].paths == ("s3://b/x.jsonl", str(tmp_path / "y.jsonl"))


class Ranged(http.server.SimpleHTTPRequestHandler):
    """Serves a folder with entity tags, as a web server does."""

    def end_headers(self) -> None:
        path = Path(self.translate_path(self.path))
        if path.is_file():
            self.send_header("ETag", f'"{path.stat().st_mtime_ns}-{path.stat().st_size}"')
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class Signed(Ranged):
    """Serves a file only to a URL that is signed and to a user with a password."""

    def do_GET(self) -> None:
        signed = any(f"X-Amz-Signature={name}" in self.path for name in ("grant1", "grant2"))
        if not signed or self.headers.get("Authorization") != "Basic " + base64.b64encode(b"me:hidden").decode():
            self.send_error(403)
        else:
            super().do_GET()

    def do_HEAD(self) -> None:
        self.do_GET() if "X-Amz-Signature=grant" not in self.path else super().do_HEAD()


@pytest.fixture
def server(request: Any, tmp_path: Path) -> Iterator[str]:
    (tmp_path / "www").mkdir()
    serving = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(getattr(request, "param", Ranged), directory=str(tmp_path / "www"))
    )
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{serving.server_port}"
    serving.shutdown()
    thread.join()
    serving.server_close()


def test_files_of_a_web_server_are_prepared_like_files_here(tmp_path: Path, server: str) -> None:
    pytest.importorskip("aiohttp")
    www = tmp_path / "www"
    (www / "a.jsonl.gz").write_bytes(gzip.compress(LINES))
    write_mds(www / "mds", {"text": "str"}, [{"text": text} for text in TEXTS], hashes=["sha1"])
    (tmp_path / "here.jsonl").write_bytes(LINES)
    specs = [
        SourceSpec(name="far", kind="jsonl", paths=(f"{server}/a.jsonl.gz",), held_out_frac=0),
        SourceSpec(name="shards", kind="mds", paths=(f"{server}/mds",), held_out_frac=0),
        SourceSpec(name="here", kind="jsonl", paths=(str(tmp_path / "here.jsonl"),), held_out_frac=0),
    ]
    [file] = open_source(specs[0]).files
    assert isinstance(file.path, RemoteFile)
    assert (file.path.identity or "").startswith("ETag:")
    stores = prepare(specs, TokenizerSpec(train_vocab_size=400), tmp_path / "stores").train
    assert np.array_equal(stores["far"].tokens, stores["here"].tokens)
    assert np.array_equal(stores["shards"].tokens, stores["here"].tokens)


@pytest.mark.parametrize("server", [Signed], indirect=True)
def test_the_secrets_of_a_url_are_used_and_never_kept_or_shown(tmp_path: Path, server: str, capsys) -> None:
    pytest.importorskip("aiohttp")
    (tmp_path / "www" / "a.jsonl").write_bytes(LINES)
    place = server.replace("://", "://me:hidden@")
    stores = tmp_path / "stores"

    def load(signature: str) -> Any:
        url = f"{place}/a.jsonl?v=1&X-Amz-Date=5&X-Amz-Signature={signature}"
        recipe = tmp_path / "r.yaml"
        recipe.write_text(
            f"extends: study-1m\nname: far\nruns: {tmp_path}/runs\n"
            f"data:\n  stores: {stores}\n  tokenizer: {{train_vocab_size: 400}}\n"
            f"  sources: [{{name: far, kind: jsonl, paths: ['{url}'], held_out_frac: 0.2}}]\n"
        )
        return load_recipe(str(recipe))

    def written() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in stores.rglob("*") if path.is_file()}

    data = load("grant1").data
    assert data.sources[0].paths == (f"{place}/a.jsonl?v=1&X-Amz-Date=5&X-Amz-Signature=grant1",)
    prepare(data.sources, data.tokenizer, stores)
    before = written()
    again = load("grant2")
    prepare(again.data.sources, again.data.tokenizer, stores)
    assert written() == before, "another signature of the same file prepares nothing again"
    plan = plan_member(again, "encoder")
    assert json.loads(plan.model_dump_json())["sources"][0]["paths"] == [f"{server}/a.jsonl?v=1"]
    expired = load("expired").data
    with pytest.raises(DataError) as caught:
        open_source(expired.sources[0])
    shown = capsys.readouterr()
    other = plan.model_copy(update={"sources": expired.sources})
    texts = [str(caught.value), str(caught.value.seen), shown.out, shown.err, plan.model_dump_json()]
    texts += [str(diff_plans(plan, other))]
    texts += [path.read_text("latin-1") for path in stores.rglob("*") if path.is_file()]
    assert not [text for text in texts if any(secret in text for secret in ("hidden", "grant", "expired"))]
