"""Compiled once: ragged documents become microbatches of one shape, and loss and gradients stay what they were."""

import pytest
import torch
from against_transformers import pad_rows

from seqpair.distributed.acceleration import CountedCompile
from seqpair.distributed.world import World
from seqpair.nn import attention
from seqpair.nn import gpu_kernels as varlen
from seqpair.nn.attention import attend_reference
from seqpair.nn.layout import Layout
from seqpair.train.assembly import assemble_run, compile_model
from seqpair.train.feed import StepFeed, work_of_step
from seqpair.train.loop import step_gradients
from seqpair.train.step import ObjectiveLoss
from seqpair.train.synthetic import synthetic_study

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _nothing_compiled():
    yield
    torch.compiler.reset()


def make_run(folder, member, kernel="reference", mode="off", backend="eager"):
    overrides = ["runtime.microbatch_tokens=200", f"runtime.kernel={kernel}", "model.attn_out_dropout=0"]
    overrides += ["members.prefix={objective: prefix}"]
    plan, prepared = synthetic_study(
        folder, "test", member, vocab_size=512, seq_len=64, batch_tokens=400, precision="fp32", overrides=overrides
    )
    run = assemble_run(plan, prepared, World(0, 1, 0, CPU, None))
    if mode == "on":
        told = plan.model_copy(update={"runtime": plan.runtime.model_copy(update={"compile": "on"})})
        run.compiled = compile_model(run.model, told, CPU, backend)
        run.module = ObjectiveLoss(run.model, run.compiled)
    return run


def step(run, number):
    phase = run.plan.phases[0]
    run.optimizer.zero_grad(set_to_none=True)
    loss = step_gradients(run, phase, work_of_step(run, phase, number))
    return loss, {name: parameter.grad for name, parameter in run.model.named_parameters()}


def compare(plain, compiled, steps):
    lengths = set()
    compiled.module.register_forward_pre_hook(lambda _, given: lengths.add(given[0].layout.lengths))
    for number in range(steps):
        (ours, grads), (theirs, others) = step(compiled, number), step(plain, number)
        assert ours.predicted == theirs.predicted
        assert ours.loss == pytest.approx(theirs.loss, abs=1e-5)
        assert ours.waste_frac > theirs.waste_frac
        for name, grad in grads.items():
            torch.testing.assert_close(grad, others[name], rtol=1e-5, atol=1e-5)
    assert len(lengths) > steps  # the documents really are ragged: no two microbatches alike


@pytest.mark.parametrize("member", ["encoder", pytest.param("decoder", marks=pytest.mark.slow)])
def test_twenty_ragged_batches_are_one_graph_and_give_the_uncompiled_loss_and_gradients(tmp_path, member, capsys):
    compiled = make_run(tmp_path / "a", member, mode="on")
    compare(make_run(tmp_path / "b", member), compiled, steps=20)
    assert compiled.compiled.graphs == 1
    assert "compiled again" not in capsys.readouterr().err


@pytest.mark.slow
def test_derived_gradients_of_the_compiled_graph_too_are_those_of_the_uncompiled(tmp_path):
    compiled = make_run(tmp_path / "a", "decoder", mode="on", backend="aot_eager")
    compare(make_run(tmp_path / "b", "decoder"), compiled, steps=2)
    assert compiled.compiled.graphs == 1


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's, of its own tracing
def test_prefixes_run_between_graphs_that_are_made_once(tmp_path, capsys):
    compiled = make_run(tmp_path / "a", "prefix", mode="on")
    step(compiled, 0)
    graphs = compiled.compiled.graphs
    compare(make_run(tmp_path / "b", "prefix"), compiled, steps=3)
    assert compiled.compiled.graphs == graphs > 1
    assert "compiled again" not in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's, of its own tracing
def test_around_a_kernel_that_cannot_be_traced_the_graphs_are_made_at_the_first_microbatch_only(tmp_path, capsys):
    compiled = make_run(tmp_path / "a", "encoder", kernel="blocked", mode="on")
    step(compiled, 0)
    graphs = compiled.compiled.graphs
    assert graphs > 1
    compare(make_run(tmp_path / "b", "encoder"), compiled, steps=5)
    assert compiled.compiled.graphs == graphs
    assert "compiled again" not in capsys.readouterr().err


def forward_by_reference(query, key, value, starts, _starts, longest, *rest):
    reach = [None if side < 0 else side for side in rest[3]]
    out = attend_reference(query, key, value, Layout.from_lengths(starts.diff().tolist()), tuple(reach))
    seen = torch.zeros(query.shape[1], query.shape[0])
    return out, seen, torch.zeros(2, dtype=torch.uint64)


def backward_by_reference(grad, query, key, value, _out, _lse, starts, _starts, *rest):
    """The gradient of softmax attention written out: autograd does not reach into torch's operations."""
    reach = [None if side < 0 else side for side in rest[-1]]
    scale, mask = query.shape[-1] ** -0.5, Layout.from_lengths(starts.diff().tolist()).visible(tuple(reach))
    scores = torch.einsum("nhk,mhk->hnm", query, key) * scale
    weights = torch.softmax(scores.masked_fill(~mask, float("-inf")), dim=-1)
    by_weights = torch.einsum("nhk,mhk->hnm", grad, value)
    by_scores = weights * (by_weights - (by_weights * weights).sum(-1, keepdim=True)) * scale
    return (
        torch.einsum("hnm,mhk->nhk", by_scores, key),
        torch.einsum("hnm,nhk->mhk", by_scores, query),
        torch.einsum("hnm,nhk->mhk", weights, grad),
    )


@pytest.fixture
def varlen_on_cpu(monkeypatch):
    """Torch's varlen operation, with its own signature and its own rule of tracing, computed here by the reference."""
    with torch.library._scoped_library("torch_attn", "FRAGMENT") as library:
        library.impl("_varlen_attn", forward_by_reference, "CPU")
        library.impl("_varlen_attn_backward", backward_by_reference, "CPU")
        monkeypatch.setattr(varlen, "varlen_is_usable", lambda _: True)
        yield


@pytest.mark.parametrize("member", ["encoder", "decoder"])
def test_the_varlen_kernel_is_part_of_the_one_graph_for_any_number_of_sequences(
    tmp_path, member, varlen_on_cpu, monkeypatch, capsys
):
    compiled = make_run(tmp_path / "a", member, kernel="varlen", mode="on")
    derive = compiled.model.backbone.derive_tables
    monkeypatch.setattr(
        compiled.model.backbone,
        "derive_tables",
        lambda layout, rope: (derive(layout, rope), varlen.short_starts(layout)),  # as on CUDA
    )
    compare(make_run(tmp_path / "b", member), compiled, steps=6)
    assert compiled.compiled.graphs == 1
    assert "compiled again" not in capsys.readouterr().err


def test_a_compilation_that_was_not_expected_is_told(capsys):
    twice = CountedCompile(lambda values: values * 2, whole=True, backend="eager")
    for size in (3, 3, 4, 5):
        assert torch.equal(twice("one shape", f"{size} values", torch.ones(size)), torch.full((size,), 2.0))
    assert twice.graphs == 3
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[2] for line in lines] == ["4 values", "5 values"]


def test_rows_for_another_library_leave_out_what_was_filled_in(tmp_path):
    run, filled = make_run(tmp_path / "a", "encoder"), make_run(tmp_path / "b", "encoder", mode="on")
    phase = run.plan.phases[0]
    plain, fixed = (work_of_step(made, phase, 0).microbatches for made in (run, filled))
    for one, other in zip(plain, fixed, strict=True):
        ours, theirs = pad_rows(one, 3), pad_rows(other, 3)
        assert other.filler_tokens > 0
        assert ours.predicted == theirs.predicted
        for name in ("ids", "mask", "labels"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name))


def test_every_kernel_that_is_said_to_be_traceable_exists():
    assert set(attention.TRACEABLE_KERNELS) <= set(attention.KERNELS)


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.02), ("fp32", 1e-3)])
@pytest.mark.parametrize("member", ["encoder", "decoder"])
def test_on_a_gpu_the_compiled_pinned_step_made_ahead_is_the_plain_one(tmp_path, member, precision, tolerance):
    losses = []
    for number, words in enumerate((["compile=off", "prefetch_batches=0"], ["compile=on", "prefetch_batches=2"])):
        overrides = ["runtime.microbatch_tokens=2048", "model.attn_out_dropout=0", *(f"runtime.{w}" for w in words)]
        plan, prepared = synthetic_study(
            tmp_path / str(number), "1m", member, vocab_size=1024, seq_len=512, batch_tokens=8192,
            precision=precision, overrides=overrides,
        )  # fmt: skip
        run = assemble_run(plan, prepared, World(0, 1, 0, torch.device("cuda", 0), None))
        phase, feed = plan.phases[0], StepFeed(run, ((plan.phases[0], step) for step in range(6)))
        losses.append([])
        for _ in range(5):
            run.optimizer.zero_grad(set_to_none=True)
            losses[-1].append(step_gradients(run, phase, feed.take()).loss)
        work = feed.take()
        feed.close()
        assert next(iter(work.microbatches)).ids.is_pinned() == bool(number)
    assert losses[0] == pytest.approx(losses[1], rel=tolerance)
    assert precision == "fp32" or run.compiled.graphs == 1
