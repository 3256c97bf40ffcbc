"""ONNX files in onnxruntime: exact at any batch and length, int8 measured, a graph that computes otherwise refused."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from checkpointed_run import plan_for, random_state, real_texts, small_tokenizer, write_run

from seqpair.errors import ExportError
from seqpair.hub.export import export_checkpoint, read_export_record
from seqpair.hub.native import NativeModel
from seqpair.hub.onnx import onnx_function, prove_onnx, require_onnx
from seqpair.hub.verify import padded
from seqpair.nn.rope import RopeBases
from seqpair.recipe.objectives import OBJECTIVES

NEEDED = ("onnx", "onnxruntime", "onnxscript")


def native_of(name):
    plan = plan_for(name, small_tokenizer().vocab_size)
    return NativeModel(plan.model, random_state(plan), OBJECTIVES[name].direction, RopeBases(5000.0, 900.0))


def test_a_missing_library_is_named(monkeypatch):
    import importlib

    honest = importlib.import_module

    def without(name, *more):
        if name in NEEDED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return honest(name, *more)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ExportError, match=r"(?s)onnx needs a package.*onnxscript.*\[onnx\]"):
        require_onnx()


def require_installed():
    """Skip where a library is missing, which is asked for only in the extra `onnx`."""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.fixture(scope="module", params=["mlm", "clm", "mntp"])
def exported(request, tmp_path_factory):
    """The objective and the folder of an export with both kinds of ONNX files."""
    require_installed()
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint = write_run(folder, request.param)
    export_checkpoint(checkpoint, folder / "export", real_texts()[:3], formats=("onnx", "onnx-int8"))
    return request.param, folder / "export"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
class TestFiles:
    """All that is asked of the files of one export, which takes ten seconds to trace."""

    @pytest.mark.parametrize("batch", [1, 3])
    @pytest.mark.parametrize("tokens", [1, 20, 200])
    def test_any_batch_and_length_gives_the_models_states_and_logits(self, exported, batch, tokens):
        name, folder = exported
        native, rng = native_of(name), np.random.default_rng(tokens)
        rows = [rng.integers(5, 400, max(1, tokens - 7 * n)) for n in range(batch)]
        states = native.states(rows, [np.arange(len(row)) for row in rows])
        for side in ("right", "left"):
            ids, mask = padded(rows, 3, side)
            assert ids.shape == (batch, tokens)
            for file, wanted in (("model", states), ("model_lm", native.head(states))):
                found = onnx_function(folder / "onnx" / f"{file}.onnx")(ids, mask)
                assert float((found[mask.bool()] - wanted).abs().max()) <= 1e-4

    def test_int8_is_smaller_and_its_distance_is_stated(self, exported):
        name, folder = exported
        for file in ("model", "model_lm"):
            sizes = [(folder / "onnx" / f"{file}{kind}.onnx").stat().st_size for kind in ("", "_int8")]
            assert sizes[1] < 0.6 * sizes[0]
        formats = read_export_record(folder)["formats"]
        assert formats["onnx"]["max_abs_difference"] <= 1e-4 < formats["onnx-int8"]["max_abs_difference"]
        assert 0.5 < formats["onnx-int8"]["equal_argmax"] < 1
        card = (folder / "README.md").read_text()
        assert f"{formats['onnx-int8']['loss_change']:+.4f} nats" in card
        assert ("have no cache" in card) == (name == "clm")

    def test_a_graph_of_other_weights_is_refused(self, exported):
        name, folder = exported
        plan = plan_for(name, small_tokenizer().vocab_size)
        state = random_state(plan)
        state["backbone.layers.2.mlp.wo.weight"] *= 1.01
        other = NativeModel(plan.model, state, OBJECTIVES[name].direction, RopeBases(5000.0, 900.0))
        with pytest.raises(ExportError, match="ONNX files do not compute"):
            prove_onnx(folder, other, [[np.arange(5, 60), np.arange(7, 20)]], 3)

    def test_a_window_one_wider_is_seen(self, exported):
        name, folder = exported
        plan = plan_for(name, small_tokenizer().vocab_size, window_tokens=9)
        other = NativeModel(plan.model, random_state(plan), OBJECTIVES[name].direction, RopeBases(5000.0, 900.0))
        with pytest.raises(ExportError, match="ONNX files do not compute"):
            prove_onnx(folder, other, [[np.arange(5, 60)]], 3)

    def test_the_files_say_where_they_come_from(self, exported):
        import onnx

        name, folder = exported
        said = {prop.key: prop.value for prop in onnx.load(folder / "onnx" / "model_lm_int8.onnx").metadata_props}
        assert said["checkpoint"] == read_export_record(folder)["checkpoint"]
        assert said["predicts"] == OBJECTIVES[name].predicts


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_int8_alone_leaves_no_other_file(tmp_path):
    require_installed()
    export_checkpoint(write_run(tmp_path, "mlm"), tmp_path / "export", real_texts()[:2], formats=("onnx-int8",))
    names = sorted(path.name for path in (tmp_path / "export" / "onnx").iterdir())
    assert names == ["model_int8.onnx", "model_lm_int8.onnx"]
    assert torch.isfinite(
        onnx_function(tmp_path / "export" / "onnx" / "model_int8.onnx")(*padded([np.arange(9)], 3))
    ).all()
