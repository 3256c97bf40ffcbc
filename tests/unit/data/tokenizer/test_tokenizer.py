import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from local_data import MODERNBERT, TEXT

from seqpair.data.tokenizer import tokenizer as tokenizer_module
from seqpair.data.tokenizer.tokenizer import SIDECAR, Tokenizer, load_tokenizer, train_tokenizer
from seqpair.errors import DataError, SeqpairError
from seqpair.recipe.data_spec import TokenizerSpec

NOVELS = TEXT / "novels"
CORPUS = [
    f"the quick brown fox no. {i} jumped over {i * 7} lazy dogs;\n\tdef f(x): return x ** {i}" for i in range(300)
]
TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]))
SPELLED = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")

needs_modernbert = pytest.mark.skipif(not MODERNBERT.is_dir(), reason="the ModernBERT tokenizer is not here")


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train_tokenizer(CORPUS, TokenizerSpec(train_vocab_size=500))


@given(text=TEXTS)
@settings(max_examples=300)
def test_every_text_comes_back_and_its_bytes_add_up(trained: Tokenizer, text: str) -> None:
    ids = trained.encode([text])[0]
    assert trained.decode(ids) == text or any(name in text for name in SPELLED)
    if not any(name in text for name in SPELLED):
        assert int(trained.token_bytes[ids].sum()) == len(text.encode())


def test_a_trained_tokenizer_has_the_five_special_tokens_and_a_padded_vocabulary(trained: Tokenizer) -> None:
    specials = trained.specials
    assert [specials.unk, specials.cls, specials.sep, specials.pad, specials.mask] == [0, 1, 2, 3, 4]
    assert trained.entries == 500
    assert trained.vocab_size == 512
    assert trained.token_bytes.shape == (512,)
    assert trained.token_bytes[:5].tolist() == [0] * 5
    assert trained.token_bytes[500:].tolist() == [0] * 12
    assert (trained.token_bytes[5:500] > 0).all()
    np.testing.assert_array_equal(trained.special_ids, np.arange(5))
    np.testing.assert_array_equal(trained.regular_ids, np.arange(5, 500))


def test_content_has_no_special_tokens_and_is_what_the_export_gives(trained: Tokenizer) -> None:
    exported = trained.with_template("[CLS] $A [SEP]", "right")
    for text in CORPUS[:20]:
        ids = trained.encode([text])[0].tolist()
        assert exported.encode(text).ids == [trained.specials.cls, *ids, trained.specials.sep]
        assert exported.encode(text, add_special_tokens=False).ids == ids
    assert trained.encode(["fill [MASK] in"])[0].tolist().count(trained.specials.mask) == 1


def test_a_causal_template_only_begins(trained: Tokenizer) -> None:
    exported = trained.with_template("[CLS] $A", "left")
    short, long = exported.encode_batch(["a", "a b c d"])
    assert long.tokens[0] == "[CLS]"
    assert "[SEP]" not in long.tokens
    assert short.tokens[0] == "[PAD]"
    assert short.ids[-1] == long.ids[1]
    pair = trained.with_template("[CLS] $A [SEP]", "right").encode("a", "b").tokens
    assert pair == ["[CLS]", "a", "[SEP]", "b", "[SEP]"]
    with pytest.raises(DataError, match="tokenizer template"):
        trained.with_template("<s> $A", "left")


def test_training_gives_the_same_tokenizer_in_another_process(trained: Tokenizer) -> None:
    code = (
        "from seqpair.data.tokenizer.tokenizer import train_tokenizer; "
        "from seqpair.recipe.data_spec import TokenizerSpec; "
        f"print(train_tokenizer({CORPUS!r}, TokenizerSpec(train_vocab_size=500)).digest)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == trained.digest


def test_a_saved_tokenizer_loads_back(trained: Tokenizer, tmp_path: Path) -> None:
    trained.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.digest == trained.digest
    assert loaded.specials == trained.specials
    assert loaded.vocab_size == trained.vocab_size
    assert json.loads((tmp_path / SIDECAR).read_text())["ids"]["mask"] == 4
    assert load_tokenizer(tmp_path / "tokenizer.json", 1000).vocab_size == 1000


def test_the_digest_ignores_what_is_put_around_a_text_and_sees_what_changes_tokens(trained: Tokenizer) -> None:
    around = trained.with_template("[CLS] $A [SEP]", "left")
    around.enable_truncation(7)
    assert Tokenizer(around, trained.names).digest == trained.digest
    content = json.loads(trained.backend.to_str())
    content["model"]["merges"] = content["model"]["merges"][:-1]
    fewer = tokenizers.Tokenizer.from_str(json.dumps(content))
    assert Tokenizer(fewer, trained.names).digest != trained.digest
    content = json.loads(trained.backend.to_str())
    content["normalizer"] = {"type": "NFC"}
    assert Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(content)), trained.names).digest != trained.digest


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_a_long_text_is_cut_where_no_token_crosses(trained: Tokenizer, seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [
        "word",
        " then",
        "\nline",
        " ",
        "  ",
        "\n",
        "\n\n",
        "'s",
        "é",
        "e\u0301",
        "7",
        ",",
        "\t",
        " [MASK]",
        "[SEP] ",
        "Ünder",
    ]
    text = "".join(rng.choice(parts, size=800))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer_module, "_SEGMENT_CHARS", 40)
        patch.setattr(tokenizer_module, "_GROUP_CHARS", 100)
        assert len(list(trained._segments(text))) > 3
        assert "".join(trained._segments(text)) == text
        cut = trained.encode(["first", text, "", text])
    whole = trained.backend.encode(text, add_special_tokens=False).ids
    assert cut[1].tolist() == whole
    assert cut[3].tolist() == whole
    assert len(cut[2]) == 0


def broken(trained: Tokenizer, folder: Path, **changes: object) -> Path:
    content = json.loads(trained.backend.to_str())
    for path, value in changes.items():
        section = content
        *above, last = path.split("__")
        for key in above:
            section = section[key]
        section[last] = value
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def test_a_tokenizer_that_cannot_be_used_is_refused_with_its_reason(trained: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no tokenizer"):
        load_tokenizer(tmp_path / "nowhere")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="is not a tokenizer file"):
        load_tokenizer(tmp_path)
    prefix = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    with pytest.raises(DataError, match="adds a space before every text"):
        load_tokenizer(broken(trained, tmp_path, pre_tokenizer=prefix))
    with pytest.raises(DataError, match="not a byte-level BPE tokenizer"):
        load_tokenizer(broken(trained, tmp_path, pre_tokenizer={"type": "Whitespace"}))
    with pytest.raises(DataError, match="tokenizes at random"):
        load_tokenizer(broken(trained, tmp_path, model__dropout=0.1))
    wordpiece = tokenizers.Tokenizer(tokenizers.models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    wordpiece.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match="not a byte-level BPE tokenizer"):
        load_tokenizer(tmp_path)


def test_missing_special_tokens_are_named(trained: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "special_tokens_map.json").write_text('{"cls_token": {"content": "<s>"}, "sep_token": "</s>"}')
    with pytest.raises(SeqpairError, match=r"lacks special tokens\n  seen: missing: <s> \(cls\), </s> \(sep\)"):
        load_tokenizer(broken(trained, tmp_path))
    (tmp_path / "special_tokens_map.json").write_text('{"cls_token": "[SEP]"}')
    with pytest.raises(DataError, match="uses one token for two roles"):
        load_tokenizer(tmp_path)


def test_special_tokens_may_have_other_names(trained: Tokenizer, tmp_path: Path) -> None:
    folder = broken(trained, tmp_path)
    text = (folder / "tokenizer.json").read_text().replace("[CLS]", "<s>").replace("[SEP]", "</s>")
    (folder / "tokenizer.json").write_text(text)
    (folder / "tokenizer_config.json").write_text('{"cls_token": "<s>", "sep_token": "</s>"}')
    other = load_tokenizer(folder)
    assert other.specials == trained.specials
    assert other.with_template("[CLS] $A [SEP]", "right").encode("a").tokens == ["<s>", "a", "</s>"]


@needs_modernbert
def test_the_real_modernbert_tokenizer() -> None:
    real = load_tokenizer(MODERNBERT)
    assert (real.specials.cls, real.specials.sep, real.specials.pad, real.specials.mask) == (50281, 50282, 50283, 50284)
    assert real.vocab_size == 50368
    assert real.entries == 50368
    assert 50254 in real.regular_ids  # a run of spaces is text
    assert 50300 not in real.special_ids  # [unused15] has neither role nor flag
    assert 50300 not in real.regular_ids  # and is never put in place of another token
    assert set(real.regular_ids.tolist()).isdisjoint(real.special_ids.tolist())
    text = "Hello,   world\n        indented e\u0301 caf\u00e9 \U0001f642"
    ids = real.encode([text])[0]
    normal = unicodedata.normalize("NFC", text)
    assert real.decode(ids) == normal
    assert int(real.token_bytes[ids].sum()) == len(normal.encode())


@needs_modernbert
@pytest.mark.skipif(not NOVELS.is_dir(), reason="the novels are not here")
def test_real_long_text_is_cut_without_changing_a_token() -> None:
    real = load_tokenizer(MODERNBERT)
    text = (NOVELS / "EBronte_Wuthering.txt").read_text(encoding="utf-8")
    assert len(list(real._segments(text))) > 3
    assert real.encode([text])[0].tolist() == real.backend.encode(text, add_special_tokens=False).ids
