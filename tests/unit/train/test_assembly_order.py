"""What is put around the model, in which order, and that recomputing layers changes no gradient."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch.distributed import fsdp

from seqpair.data.prepared import open_recipe_data
from seqpair.data.store.counts import plan_member
from seqpair.distributed.acceleration import recompute_layers
from seqpair.distributed.world import World
from seqpair.nn.backbone import Backbone, attention_window
from seqpair.recipe.load import load_recipe
from seqpair.train import assembly
from seqpair.train.assembly import assemble_run
from seqpair.train.feed import work_of_step
from seqpair.train.loop import step_gradients

CPU = torch.device("cpu")


def assembled(study, tmp_path, *runtime, member="decoder", world=None):
    overrides = [f"runs={tmp_path}", "runtime.microbatch_tokens=256", *(f"runtime.{one}" for one in runtime)]
    recipe = load_recipe(str(study.recipe), overrides)
    return assemble_run(plan_member(recipe, member), open_recipe_data(recipe), world or World(0, 1, 0, CPU, None))


def gradients(run):
    phase = run.plan.phases[0]
    loss = step_gradients(run, phase, work_of_step(run, phase, 0))
    return loss.loss, {name: parameter.grad for name, parameter in run.model.named_parameters()}


@pytest.mark.parametrize("member", ["encoder", "decoder"])
@pytest.mark.parametrize("which", ["all", "1"])
def test_recomputed_layers_give_the_same_gradients_and_keep_less(prepared_study, tmp_path, member, which):
    kept = []
    for setting in ("none", which):  # with dropout, which has to drop the same values again
        run = assembled(prepared_study, tmp_path / setting, f"checkpoint_layers={setting}", member=member)
        held = 0

        def keep(tensor):
            nonlocal held
            held += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            kept.append((*gradients(run), held))
    (loss, grads, held), (again, others, held_less) = kept
    assert run.plan.model.attn_out_dropout > 0
    assert again == loss
    assert {name: grad.tolist() for name, grad in grads.items()} == {n: g.tolist() for n, g in others.items()}
    assert list(grads) == list(others)  # the parameters keep their names
    assert held_less < held


def test_the_first_layers_are_recomputed(prepared_study, tmp_path):
    layers = list(assembled(prepared_study, tmp_path).model.backbone.layers)
    plain = [layer.forward for layer in layers]
    assert recompute_layers(layers, 2) == 2
    assert [layer.forward == forward for layer, forward in zip(layers, plain, strict=True)][:3] == [False, False, True]
    assert recompute_layers(layers, "none") == 0


@pytest.fixture
def one_gloo_rank():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield World(0, 1, 0, CPU, "gloo")
    dist.destroy_process_group()


def test_the_order_around_the_model_is_fixed(prepared_study, tmp_path, monkeypatch, one_gloo_rank):
    """Float8, recomputing, compiling each layer, sharding each layer, sharding the loss."""
    done = []

    def noted(name, call):
        return lambda *given, **named: (done.append((name, given[0])), call(*given, **named))[1]

    monkeypatch.setattr(assembly, "float8_model", noted("float8", lambda model, *_, **__: None))
    monkeypatch.setattr(assembly, "recompute_layers", noted("recompute", recompute_layers))
    monkeypatch.setattr(torch, "compile", noted("compile", lambda function, **_: function))
    monkeypatch.setattr(fsdp, "fully_shard", noted("shard", fsdp.fully_shard))
    settings = ("sharding=full", "checkpoint_layers=all", "compile=on")
    run = assembled(prepared_study, tmp_path, *settings, world=one_gloo_rank)
    layers = list(run.model.backbone.layers)
    names = [name for name, _ in done]
    assert names == ["float8", "recompute", *["compile"] * len(layers), *["shard"] * (len(layers) + 1)]
    compiled = [given for name, given in done if name == "compile"]
    assert [type(one).__name__ for one in compiled] == ["_Recomputed"] * len(layers)  # recomputing lies inside
    assert [given for name, given in done if name == "shard"] == [*layers, run.module]
    assert run.module.model is run.model


# Dynamo asks a tensor that is no leaf for its gradient, and hides the warning, but not from pytest.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_a_sharded_compiled_recomputed_step_is_the_plain_one(prepared_study, tmp_path, monkeypatch, one_gloo_rank):
    compile_model = assembly.compile_model
    monkeypatch.setattr(
        assembly, "compile_model", lambda *given, **named: compile_model(*given, backend="aot_eager", **named)
    )
    derive_tables = Backbone.derive_tables

    def with_masks(backbone, layout, rope):
        """A recomputed part of a graph may not add to a layout, so what the kernel adds has to be there."""
        derive_tables(backbone, layout, rope)
        for window in (attention_window(backbone.plan, layer, "causal") for layer in range(len(backbone.layers))):
            layout.derive(("reference", window), lambda window=window: layout.visible(window))

    monkeypatch.setattr(Backbone, "derive_tables", with_masks)
    settings = ("kernel=reference", "sharding=full", "checkpoint_layers=all", "compile=on")
    plain = assembled(prepared_study, tmp_path / "plain", "kernel=reference")
    sharded = assembled(prepared_study, tmp_path / "sharded", *settings, world=one_gloo_rank)
    for run in (plain, sharded):
        for layer in run.model.backbone.layers:
            layer.attention.dropout = 0.0
    (loss, grads), (again, others) = gradients(plain), gradients(sharded)
    assert again == pytest.approx(loss, rel=1e-5)
    for name, grad in grads.items():
        torch.testing.assert_close(others[name].full_tensor(), grad, rtol=1e-4, atol=1e-6)
    assert sharded.compiled.graphs >= 1
