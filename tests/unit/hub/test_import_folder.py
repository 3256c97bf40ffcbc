"""Folders come back as they were written, by us and by transformers; what cannot be expressed is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from checkpointed_run import plan_for, random_state, real_texts, small_tokenizer, write_run
from safetensors.torch import load_file, save_file

from seqpair.data.tokenizer.tokenizer import train_tokenizer
from seqpair.errors import DataError, HubFolderError, UnsafeModelError
from seqpair.hub.export import export_checkpoint
from seqpair.hub.import_folder import read_hub_folder, require_fits, verify_import
from seqpair.nn.rope import RopeBases
from seqpair.recipe.data_spec import TokenizerSpec

NAMES = ("mlm", "mntp", "clm")
CLASSES = ("mlm", "clm")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An export of each objective, from random weights."""
    folders = {}
    for name in NAMES:
        folder = tmp_path_factory.mktemp(name)
        export_checkpoint(write_run(folder, name), folder / "export", real_texts()[:2])
        folders[name] = folder / "export"
    return folders


@pytest.fixture(scope="module")
def saved(exported, tmp_path_factory):
    """The same models as transformers writes them, with its own keys only, in several shards."""
    transformers = pytest.importorskip("transformers")
    folders = {}
    for name in NAMES:
        auto = transformers.AutoModelForCausalLM if name == "clm" else transformers.AutoModelForMaskedLM
        folders[name] = tmp_path_factory.mktemp(f"saved-{name}")
        model = auto.from_pretrained(exported[name])
        for key in ("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta"):
            if hasattr(model.config, key):
                delattr(model.config, key)
        model.save_pretrained(folders[name], max_shard_size="40kB")
        transformers.AutoTokenizer.from_pretrained(exported[name]).save_pretrained(folders[name])
    return folders


def changed(folder, target, **values):
    """Copy a folder and change its configuration; a value of None removes the key."""
    shutil.copytree(folder, target, dirs_exist_ok=True)
    config = json.loads((target / "config.json").read_text())
    config.update(values)
    (target / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return target


def require_same(imported, name):
    plan = plan_for(name, small_tokenizer().vocab_size)
    state = random_state(plan)
    assert imported.model.keys() == state.keys()
    assert all(torch.equal(imported.model[key], values) for key, values in state.items())
    assert imported.model_plan == plan.model.model_copy(update={"attn_out_dropout": 0.0})
    assert imported.rope == RopeBases(5000.0, 900.0)
    assert (imported.direction, imported.predicts) == (plan.derived.direction, plan.derived.predicts)
    assert imported.tokenizer.digest == small_tokenizer().digest
    assert (imported.seq_len, imported.hub_class) == (96, plan.derived.hub_class)


@pytest.mark.parametrize("name", NAMES)
def test_an_export_comes_back_bit_for_bit(exported, name):
    require_same(read_hub_folder(exported[name]), name)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_transformers_wrote_is_the_same_model(saved, name):
    config = json.loads((saved[name] / "config.json").read_text())
    assert "rope_parameters" in config
    assert "global_rope_theta" not in config
    assert (saved[name] / "model.safetensors.index.json").is_file()
    require_same(read_hub_folder(saved[name]), name)


@pytest.mark.parametrize("name", CLASSES)
def test_a_legacy_configuration_is_the_same_model(exported, tmp_path, name):
    folder = changed(exported[name], tmp_path, layer_types=None, rope_parameters=None, dtype=None)
    require_same(read_hub_folder(folder), name)
    assert verify_import(read_hub_folder(folder), real_texts()).max_abs_difference <= 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_an_import_is_proven_past_the_window(exported, saved, name):
    for folder in (exported[name], saved[name]):
        proof = verify_import(read_hub_folder(folder), real_texts())
        assert proof.max_abs_difference <= 1e-4
        assert proof.longest_tokens > 2 * proof.window_tokens + 1
        assert proof.checked_texts > 5


def with_plan(imported, **values):
    return type(imported)(**{**vars(imported), "model_plan": imported.model_plan.model_copy(update=values)})


@pytest.mark.parametrize("fault", ["window", "pattern", "epsilon", "bases", "weights"])
@pytest.mark.parametrize("name", CLASSES)
def test_an_import_that_computes_something_else_is_refused(exported, name, fault):
    imported = read_hub_folder(exported[name])
    wrong = {
        "window": lambda: with_plan(imported, window_tokens=7),
        "pattern": lambda: with_plan(imported, global_every=2),
        "epsilon": lambda: with_plan(imported, norm_eps=1e-2),
        "bases": lambda: type(imported)(**{**vars(imported), "rope": RopeBases(900.0, 5000.0)}),
        "weights": lambda: type(imported)(
            **{**vars(imported), "model": {key: values * 1.01 for key, values in imported.model.items()}}
        ),
    }[fault]()
    with pytest.raises(HubFolderError, match=r"(?s)does not compute.*max \|difference\| of logits"):
        verify_import(wrong, real_texts())


def test_another_tokenizer_in_transformers_is_noticed(exported, tmp_path):
    imported = read_hub_folder(changed(exported["mlm"], tmp_path))
    other = train_tokenizer(real_texts()[::-1][:3], TokenizerSpec(train_vocab_size=500))
    with pytest.raises(HubFolderError, match="other ids in transformers"):
        verify_import(type(imported)(**{**vars(imported), "tokenizer": other}), real_texts())


@pytest.mark.parametrize(
    ("name", "values", "window"),
    [
        ("mlm", {"local_attention": 16}, 8),
        ("mlm", {"local_attention": 17}, 8),
        ("mlm", {"sliding_window": 6}, 6),
        ("clm", {"local_attention": 16}, 7),
        ("clm", {"local_attention": 18}, 8),
        ("clm", {"local_attention": 16, "sliding_window": 9}, 8),
    ],
)
def test_the_window_is_the_one_that_transformers_computes(exported, tmp_path, name, values, window):
    """64 keys with itself are 63 to the left; an explicit sliding_window wins."""
    imported = read_hub_folder(changed(exported[name], tmp_path, **values))
    assert imported.model_plan.window_tokens == window
    assert verify_import(imported, real_texts()).max_abs_difference <= 1e-4


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("mlm", {"layer_types": ["full_attention"] + 2 * ["sliding_attention"] + ["sliding_attention"]}, None),
        ("mlm", {"layer_types": 3 * ["sliding_attention"] + ["full_attention"]}, "pattern of global and local"),
        ("mlm", {"layer_types": 3 * ["full_attention"]}, "pattern of global and local"),
        ("mlm", {"attention_bias": True}, r"cannot be expressed.*attention_bias True"),
        ("clm", {"mlp_bias": True, "norm_bias": True}, r"norm_bias True, mlp_bias True"),
        ("clm", {"decoder_bias": False}, r"decoder_bias False.*allowed: decoder_bias True"),
        ("mlm", {"hidden_activation": "gelu_new"}, r"hidden_activation 'gelu_new'.*'gelu'"),
        ("mlm", {"classifier_activation": "silu"}, r"classifier_activation 'silu'"),
        ("clm", {"sliding_window": 1}, "nothing but the token itself"),
        ("mlm", {"rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 4.0}}}, "positions"),
        ("mlm", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling"),
        ("clm", {"rope_parameters": None, "local_rope_theta": None}, r"RoPE base of a decoder.*add local_rope_theta"),
        ("mlm", {"model_type": "bert"}, r"model_type.*'bert'.*ModernBertForMaskedLM"),
        ("mlm", {"architectures": ["ModernBertDecoderModel"]}, r"another class.*ModernBertForTokenClassification"),
        ("mlm", {"hidden_size": "32"}, "hidden_size"),
        ("mlm", {"num_attention_heads": 32}, "shape cannot be expressed"),
        ("mlm", {"intermediate_size": 64}, r"shapes that its config.json states.*mlp.wi"),
        ("mlm", {"num_hidden_layers": 7, "layer_types": None}, r"missing \['model.layers.4"),
        ("clm", {"vocab_size": 448}, "more entries than the model has rows|shapes that its"),
        ("clm", {"tie_word_embeddings": False}, "output matrix is missing"),
        ("mlm", {"seqpair_predicts": "next"}, "does not fit the class"),
    ],
)
def test_what_cannot_be_expressed_is_refused(exported, tmp_path, name, values, message):
    folder = changed(exported[name], tmp_path, **values)
    if message is None:  # a pattern of another period is fine
        assert read_hub_folder(folder).model_plan.global_every == 4
        return
    with pytest.raises(HubFolderError, match=f"(?s){message}"):
        read_hub_folder(folder)


def test_an_untied_output_matrix_is_refused_and_a_tied_copy_taken(exported, tmp_path):
    folder = changed(exported["clm"], tmp_path)
    tensors = load_file(folder / "model.safetensors")
    table = tensors["model.embeddings.tok_embeddings.weight"]
    save_file({**tensors, "decoder.weight": table.clone()}, folder / "model.safetensors", metadata={"format": "pt"})
    require_same(read_hub_folder(folder), "clm")
    save_file({**tensors, "decoder.weight": table + 1}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(HubFolderError, match="output matrix is not its token table"):
        read_hub_folder(folder)


def test_weights_in_half_precision_are_taken_and_noted(exported, tmp_path):
    folder = changed(exported["mlm"], tmp_path)
    tensors = {key: values.bfloat16() for key, values in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    imported = read_hub_folder(folder)
    assert {values.dtype for values in imported.model.values()} == {torch.float32}
    assert any("bfloat16" in note for note in imported.notes)
    assert verify_import(imported, real_texts()).max_abs_difference <= 1e-4


def test_dropouts_are_noted(exported, tmp_path):
    assert read_hub_folder(exported["mlm"]).notes == ()
    folder = changed(exported["mlm"], tmp_path, attention_dropout=0.1, mlp_dropout=0.2)
    imported = read_hub_folder(folder)
    assert imported.model_plan.attn_out_dropout == 0.1
    assert [note.split()[0] for note in imported.notes] == ["mlp_dropout", "attention_dropout"]


def test_weights_that_cannot_be_used_are_named(exported, tmp_path):
    folder = changed(exported["mlm"], tmp_path)
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    tensors["decoder.bias"][3] = float("nan")
    save_file(tensors, weights)
    with pytest.raises(HubFolderError, match=r"(?s)not finite.*output_bias"):
        read_hub_folder(folder)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(HubFolderError, match=r"(?s)model.safetensors is damaged"):
        read_hub_folder(folder)
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(UnsafeModelError, match=r"(?s)pickled checkpoint is never opened.*pytorch_model.bin"):
        read_hub_folder(folder)


def test_a_missing_shard_is_named(saved, tmp_path):
    folder = changed(saved["mlm"], tmp_path)
    shard = sorted(folder.glob("model-0*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(HubFolderError, match=f"(?s)lacks some of its weights.*{shard.name}"):
        read_hub_folder(folder)


def test_a_shard_outside_the_folder_is_not_opened(saved, tmp_path):
    folder = changed(saved["mlm"], tmp_path / "model")
    shutil.copy(next(iter(folder.glob("model-0*.safetensors"))), tmp_path / "outside.safetensors")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["decoder.bias"] = "../outside.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UnsafeModelError, match=r"(?s)names a file outside its folder.*outside.safetensors"):
        read_hub_folder(folder)


def test_folders_that_are_none_say_what_is_missing(exported, tmp_path):
    with pytest.raises(HubFolderError, match=r"(?s)no Hugging Face model.*seqpair export"):
        read_hub_folder(tmp_path / "nothing")
    folder = changed(exported["mlm"], tmp_path / "copy")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(DataError, match="no tokenizer"):
        read_hub_folder(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(HubFolderError, match="cannot be used"):
        read_hub_folder(folder)


def test_the_digest_follows_every_file(exported, tmp_path):
    before = read_hub_folder(exported["mlm"]).digest
    assert read_hub_folder(changed(exported["mlm"], tmp_path)).digest == read_hub_folder(tmp_path).digest
    assert read_hub_folder(changed(exported["mlm"], tmp_path / "b", initializer_range=0.01)).digest != before


def test_a_tokenizer_is_padded_to_the_rows_of_the_table(tmp_path):
    """A table that is no multiple of 64 rows: the padding that gives it is found."""
    import checkpointed_run

    tokenizer = checkpointed_run.small_tokenizer(pad_vocab_to=500)
    plan = plan_for("mlm", tokenizer.vocab_size)
    export_checkpoint(checkpointed_run.write_run_of(tmp_path, plan, tokenizer), tmp_path / "export", real_texts()[:1])
    imported = read_hub_folder(tmp_path / "export")
    assert imported.tokenizer.vocab_size == imported.model_plan.vocab_size == tokenizer.vocab_size


def test_a_recipe_that_is_the_same_model_fits(exported):
    for name in CLASSES:
        plan = plan_for("clm", small_tokenizer().vocab_size)  # the other direction may start from either
        require_fits(plan, read_hub_folder(exported[name]), small_tokenizer())


def test_one_error_says_everything_that_differs(exported):
    imported = read_hub_folder(exported["mlm"])
    plan = plan_for("mlm", 576, window_tokens=64, layers=7)
    phase = plan.phases[0].model_copy(update={"rope_global_theta": 160_000.0})
    plan = plan.model_copy(update={"phases": (phase,)})
    other = train_tokenizer(real_texts()[::-1][:3], TokenizerSpec(train_vocab_size=500))
    with pytest.raises(HubFolderError) as fault:
        require_fits(plan, imported, other)
    seen, wanted, advice = str(fault.value).split("\n  ")[1:]
    assert seen.startswith("seen: size.layers 7; vocabulary rows 576; model.window_tokens 64; tokenizer digest ")
    assert seen.endswith("rope_global_theta 160000")
    assert wanted.startswith("allowed: size.layers 4; vocabulary rows 512; model.window_tokens 8; ")
    assert wanted.endswith("rope_global_theta 5000")
    assert "size (to {layers: 4, width: 32, inner: 48, heads: 2})" in advice
    assert f"data.tokenizer (to {{path: {exported['mlm']}, pad_vocab_to: 64}})" in advice
    assert "rope_global_theta of phase 'pretrain'" in advice


def test_context_extension_may_change_the_bases(exported):
    plan = plan_for("mlm", small_tokenizer().vocab_size)
    phase = plan.phases[0].model_copy(update={"rope_global_theta": 160_000.0, "tag": "ext"})
    require_fits(plan.model_copy(update={"phases": (phase,)}), read_hub_folder(exported["mlm"]), small_tokenizer())
