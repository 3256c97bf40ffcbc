"""The template of every export, through `AutoTokenizer`: encoders `[CLS] x [SEP]`, decoders `[CLS] x` only.

A decoder whose template ended in `[SEP]` would lose the first token of every continuation in lm-eval, which encodes
context and continuation together and cuts at the context's length.
"""

from __future__ import annotations

import pytest
from checkpointed_run import plan_for, real_texts, small_tokenizer, write_run, write_run_of
from tokenizers import normalizers

from seqpair.checkpoint.catalog import scan
from seqpair.checkpoint.soup import Weighting, make_soup
from seqpair.data.tokenizer.tokenizer import load_tokenizer
from seqpair.hub.export import export_checkpoint, write_tokenizer
from seqpair.hub.import_folder import read_hub_folder
from seqpair.recipe.objectives import OBJECTIVES
from seqpair.recipe.plan import Start

transformers = pytest.importorskip("transformers")

START = {"encoder": "decoder", "decoder": "encoder"}
PATHS = (
    "encoder",
    "decoder",
    "mntp",
    "hybrid-encoder",
    "hybrid-decoder",
    "encoder-from-decoder",
    "decoder-from-encoder",
    "encoder-soup",
    "decoder-soup",
    "encoder-from-decoder-folder",
    "decoder-from-encoder-folder",
)
"""Every way to an export; the last part but `from` and where from says what comes out."""

CASES = (
    ("The river", " ran over"),
    ("def f(x):\n    return", " x + 1\n"),
    ("a [SEP] b", " [CLS] c"),
    ("Question: na\u00efve?\nAnswer:", " \u4e2d\u6587 \U0001f642"),
    ("", " start"),
)


def objective_of(path):
    if path == "mntp":
        return OBJECTIVES["mntp"]
    produced = path.split("-")[1] if path.startswith("hybrid") else path.split("-")[0]
    return OBJECTIVES["clm" if produced == "decoder" else "mlm"]


def export_of(path, folder):
    """Write a run of random weights and export it by this path."""
    name, out = objective_of(path).name, folder / "export"
    if path.startswith("hybrid"):
        checkpoint = write_run(folder / "run", "hybrid")
        export_checkpoint(checkpoint, out, real_texts()[:1], as_class="clm" if name == "clm" else "mntp")
        return out
    tokenizer = small_tokenizer()
    if path.endswith("folder"):
        other = {"mlm": "clm", "clm": "mlm"}[name]
        export_checkpoint(write_run(folder / "first", other), folder / "import", real_texts()[:1])
        tokenizer = read_hub_folder(folder / "import").tokenizer
    plan = plan_for(name, tokenizer.vocab_size)
    if "-from-" in path:
        plan = plan.model_copy(update={"start": Start(kind="member", member=START[path.split("-")[0]])})
    checkpoint = write_run_of(folder / "run", plan, tokenizer)
    if path.endswith("soup"):
        checkpoint = make_soup(folder / "run", scan(folder / "run").entries, Weighting(), "one")
    export_checkpoint(checkpoint, out, real_texts()[:1])
    return out


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    return {path: export_of(path, tmp_path_factory.mktemp(path)) for path in PATHS}


@pytest.fixture(params=PATHS)
def exported(request, exports, tmp_path):
    """An export and the same tokenizer saved again by transformers: what they add must be the same."""
    auto = transformers.AutoTokenizer.from_pretrained(exports[request.param])
    auto.save_pretrained(tmp_path)
    return objective_of(request.param), (auto, transformers.AutoTokenizer.from_pretrained(tmp_path))


def test_one_text_and_two(exported):
    objective, tokenizers = exported
    ours = small_tokenizer()
    cls, sep = [ours.specials.cls], [ours.specials.sep] if objective.direction == "bidirectional" else []
    for auto in tokenizers:
        for first, second in CASES:
            one, two = (ids.tolist() for ids in ours.encode([first, second]))
            assert auto(first)["input_ids"] == [*cls, *one, *sep]
            assert auto(first, second)["input_ids"] == [*cls, *one, *sep, *two, *sep]
            assert auto(first, add_special_tokens=False)["input_ids"] == one
            assert set(auto(first)) == {"input_ids", "attention_mask"}


def test_padding_side(exported):
    objective, tokenizers = exported
    ours = small_tokenizer()
    for auto in tokenizers:
        batch = auto(["The river ran over the stones", "x"], padding=True)
        short, mask = batch["input_ids"][1], batch["attention_mask"][1]
        pads = [ours.specials.pad] * (len(short) - sum(mask))
        assert pads
        if objective.direction == "causal":
            assert short[: len(pads)] == pads
            assert short[-1] == ours.encode(["x"])[0][-1]
        else:
            assert short[len(short) - len(pads) :] == pads
            assert short[0] == ours.specials.cls
        assert auto.padding_side == objective.padding_side == ("left" if objective.direction == "causal" else "right")


def test_a_truncated_text_keeps_its_template(exported):
    objective, tokenizers = exported
    ours = small_tokenizer()
    for auto in tokenizers:
        cut = auto("The river ran over the stones and on", truncation=True, max_length=6)["input_ids"]
        assert (len(cut), cut[0]) == (6, ours.specials.cls)
        assert (cut[-1] == ours.specials.sep) == (objective.direction == "bidirectional")


@pytest.mark.parametrize("path", [path for path in PATHS if objective_of(path).direction == "causal"])
@pytest.mark.parametrize("arguments", [{}, {"add_bos_token": True}], ids=["plain", "add_bos_token"])
def test_joint_tokens_cut_at_the_contexts_length_are_the_continuation(exports, path, arguments):
    """What lm-eval does with a causal model: encode both together, cut at the length of the context alone."""
    auto = transformers.AutoTokenizer.from_pretrained(exports[path], **arguments)
    ours = small_tokenizer()
    for context, continuation in CASES:
        whole, alone = auto(context + continuation)["input_ids"], auto(context)["input_ids"]
        assert alone == whole[: len(alone)]
        assert whole[len(alone) :] == ours.encode([continuation])[0].tolist()
        assert whole[len(alone) :] == auto(continuation, add_special_tokens=False)["input_ids"]
        assert whole[-1] != ours.specials.sep


def test_the_encoders_template_would_fail_that_test(exports):
    """The hazard is real: an encoder's template loses the first token and ends in `[SEP]`."""
    auto = transformers.AutoTokenizer.from_pretrained(exports["encoder"])
    context, continuation = CASES[0]
    whole, alone = auto(context + continuation)["input_ids"], auto(context)["input_ids"]
    wanted = small_tokenizer().encode([continuation])[0].tolist()
    assert whole[len(alone) :] == [*wanted[1:], small_tokenizer().specials.sep]


@pytest.mark.parametrize("name", ["mlm", "clm"])
def test_a_template_of_the_tokenizers_own_does_not_stay(tmp_path, name):
    """A downloaded tokenizer brings a template, a normaliser and a padding of its own; only the normaliser stays."""
    source = small_tokenizer()
    source.backend.normalizer = normalizers.NFC()
    own = source.with_template("[CLS] $A [SEP]", "right")
    (tmp_path / "own").mkdir()
    own.save(str(tmp_path / "own" / "tokenizer.json"))
    (tmp_path / "out").mkdir()
    write_tokenizer(tmp_path / "out", load_tokenizer(tmp_path / "own"), OBJECTIVES[name], 96)
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = auto("cafe\u0301")["input_ids"]
    assert ids[1 : None if name == "clm" else -1] == source.encode(["caf\u00e9"])[0].tolist()
    assert (ids[-1] == source.specials.sep) == (name == "mlm")
    assert auto.padding_side == OBJECTIVES[name].padding_side
