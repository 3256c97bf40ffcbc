import hashlib

from seqpair.digest import canonical_json, hash64, sha256_file, sha256_json


def test_a_file_is_hashed_as_anybody_would(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc" * 1_000_000)
    assert sha256_file(path, chunk_bytes=4096) == hashlib.sha256(b"abc" * 1_000_000).hexdigest()


def test_json_has_one_text():
    assert canonical_json({"b": 1, "a": [1.5, None, "\u00e9"]}) == '{"a":[1.5,null,"\\u00e9"],"b":1}'
    assert sha256_json({"a": 1, "b": 2}) == sha256_json({"b": 2, "a": 1}) != sha256_json({"a": 1, "b": 3})


def test_identifiers_hash_to_64_bits():
    assert 0 <= hash64("note-1") < 1 << 64
    assert hash64("note-1") != hash64("note-2")
    assert hash64("note-1") == int.from_bytes(hashlib.blake2b(b"note-1", digest_size=8).digest(), "little")
