import ast
from pathlib import Path

import pytest

import seqpair
from seqpair import errors
from seqpair.errors import DiskFullError, RunLockedError, SeqpairError, TrainingError, without_secrets


def test_a_message_has_what_seen_allowed_and_next():
    error = SeqpairError("the size is unknown", seen="2m", allowed="1m, 4m", fix="choose one")
    assert str(error) == "the size is unknown\n  seen: 2m\n  allowed: 1m, 4m\n  next: choose one"
    assert str(SeqpairError("alone")) == "alone"
    assert "seen: 0" in str(SeqpairError("zero", seen=0))


def test_faults_have_exit_codes_of_their_own():
    assert [kind.exit_code for kind in (SeqpairError, TrainingError, RunLockedError, DiskFullError)] == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("https://me:pass%40word@host/a.jsonl", "https://host/a.jsonl"),
        ("s3://key:secret@bucket/a", "s3://bucket/a"),
        ("https://h/a?X-Amz-Date=1&X-Amz-Credential=b%2Fc&X-Amz-Signature=d", "https://h/a"),
        ("https://h/a?X-Goog-Signature=d&generation=3", "https://h/a?generation=3"),
        ("https://h/a?v=2&sv=2020&se=5&sp=r&sig=a%2Bb", "https://h/a?v=2"),
        ("https://h/a?Expires=1&Signature=s&Key-Pair-Id=k&Policy=p", "https://h/a"),
        ("https://h/a?AWSAccessKeyId=x&download=1", "https://h/a?download=1"),
        ("https://h/a?access_token=x", "https://h/a"),
        ("https://h/a?api_key=x&api-key=y&apikey=z&key=w&page=2", "https://h/a?page=2"),
    ],
)
def test_what_is_kept_and_shown_of_a_url_lets_nobody_in(url, public):
    assert without_secrets(url) == public
    assert without_secrets(f"'{url}' and \"{url}\"") == f"'{public}' and \"{public}\""
    assert str(SeqpairError(url, seen=url, allowed=url, fix=url)).count(public) == 4
    assert url not in str(SeqpairError(url, seen=url, allowed=[url], fix=url))


@pytest.mark.parametrize(
    "plain",
    [
        "https://h/a?download=true&page=2",
        "https://h/a?keyword=x&monkey=y&st=5&se=6",
        "hf://datasets/owner/name@0123abc/train.parquet",
        "hf://gpt2@main/config.json",
        "s3://bucket/*.jsonl.zst",
        "memory://x/y@z?",
        "C:/a?token=b",
        "me:pass@host",
    ],
)
def test_a_url_without_secrets_stays_as_it_is(plain):
    assert without_secrets(plain) == plain


def test_every_error_says_what_is_allowed_or_what_to_do_next():
    source = Path(seqpair.__file__).parent
    trees = {path.relative_to(source): ast.parse(path.read_text(encoding="utf-8")) for path in source.rglob("*.py")}
    calls = [
        (path, call)
        for path, tree in trees.items()
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and call.args
    ]
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, SeqpairError)}
    bare = [
        f"{path}:{call.lineno}"
        for path, call in calls
        if getattr(call.func, "id", None) in {*kinds, "TaskSkippedError", "fault"}
        and not {keyword.arg for keyword in call.keywords} & {"allowed", "fix", None}
        and len(call.args) < 3
    ]
    assert bare == []
