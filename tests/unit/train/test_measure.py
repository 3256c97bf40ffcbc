"""The clock around real steps: against the plan's own counts, and what it says of a step's parts."""

import json

import pytest
import torch

from seqpair.distributed.world import World
from seqpair.recipe.cost import flops_per_token
from seqpair.recipe.sizes import SIZES
from seqpair.train.assembly import assemble_run, require_ready
from seqpair.train.measure import TimeSplit, _Hooks, _Steps, limit_words, measure_training
from seqpair.train.synthetic import synthetic_study


def make_run(folder, member="encoder", overrides=()):
    plan, prepared = synthetic_study(
        folder,
        "test",
        member,
        vocab_size=512,
        seq_len=64,
        batch_tokens=600,
        precision="fp32",
        overrides=list(overrides),
    )
    return assemble_run(plan, prepared, World(0, 1, 0, torch.device("cpu"), None))


@pytest.mark.parametrize("member", ["encoder", "decoder"])
@pytest.mark.parametrize("size", SIZES)
def test_every_size_gives_a_plan_of_its_own_shape(tmp_path, size, member):
    plan, prepared = synthetic_study(
        tmp_path, size, member, vocab_size=1024, seq_len=128, batch_tokens=256, precision="bf16", overrides=[]
    )
    assert plan.model.shape == SIZES[size]
    assert plan.model.attn_out_dropout == 0.1
    assert (plan.model.vocab_size, plan.phases[0].seq_len, plan.runtime.precision) == (1024, 128, "bf16")
    require_ready(plan, prepared)


@pytest.mark.parametrize("member", ["encoder", "decoder"])
def test_a_measurement_counts_what_the_steps_hold(tmp_path, member):
    run = make_run(tmp_path, member)
    before = run.model.output_weight.detach().clone()
    found = measure_training(run, seconds=0.0, tokens=4000)
    sequences = len(run.plan.phases[0].positions_of(0))
    mean = run.plan.phases[0].mean_tokens
    assert found.steps * found.step_tokens >= 4000 > (found.steps - 2) * found.step_tokens
    assert found.step_tokens == pytest.approx(sequences * mean, rel=0.2)
    assert found.tokens_per_second == pytest.approx(found.step_tokens / found.step_seconds, rel=0.8)
    assert found.flops_per_token == flops_per_token(run.plan.model, run.plan.phases[0])
    assert found.mfu == pytest.approx(found.flops_per_second / found.peak_flops_per_second)
    specials = found.flops_per_second / found.flops_per_token / found.tokens_per_second
    assert 1 < specials < 1.2  # one or two special tokens in a sequence of about thirty
    assert found.split.communication == 0.0
    assert min(found.split.data, found.split.forward, found.split.backward, found.split.optimizer) > 0
    assert not torch.equal(before, run.model.output_weight)  # it really trained


def test_the_parts_of_a_step_make_up_the_step(tmp_path):
    run = make_run(tmp_path, overrides=["runtime.microbatch_tokens=128"])  # several microbatches
    steps, hooks = _Steps(run), _Hooks(run)
    steps.go()
    batch, gradients = steps.read(), []
    hooks.start()
    steps.update(batch, lambda: gradients.append((hooks.close(), hooks.forward, hooks.backward)))
    hooks.remove()
    _, forward, backward = gradients[0]
    assert 0.2 < forward / backward < 5  # a backward pass of every microbatch was counted, not of the last alone
    assert not run.module._forward_hooks
    assert not run.module._forward_pre_hooks


def test_steps_are_those_of_the_order_and_begin_anew_at_the_end(tmp_path):
    run = make_run(tmp_path)
    short = run.plan.phases[0].model_copy(update={"steps": 3})
    run.plan = run.plan.model_copy(update={"phases": (short,)})
    steps = _Steps(run)
    assert [steps.read().record.step for _ in range(5)] == [0, 1, 2, 0, 1]


@pytest.mark.parametrize(
    ("parts", "mfu", "words"),
    [
        ((0.3, 0.3, 0.3, 0.1, 0.0), 0.3, "the data"),
        ((0.0, 0.3, 0.3, 0.0, 0.4), 0.3, "the network"),
        ((0.0, 0.3, 0.3, 0.4, 0.0), 0.3, "the optimiser"),
        ((0.0, 0.4, 0.5, 0.1, 0.0), 0.7, "arithmetic"),
        ((0.0, 0.4, 0.5, 0.1, 0.0), 0.2, "not arithmetic"),
    ],
)
def test_the_limit_is_the_part_that_stands_out(parts, mfu, words):
    assert limit_words(TimeSplit(*parts), mfu, "cpu").startswith(words)


def test_the_verb_measures_and_leaves_nothing_behind(seqpair, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    words = ["bench", "--size", "test", "--member", "decoder", "--seq-len", "64", "--batch-tokens", "600"]
    code, out, err = seqpair(*words, "--vocab-size", "512", "--seconds", "0", "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert (answer["size"], answer["member"], answer["vocab_size"]) == ("test", "decoder", 512)
    assert answer["steps"] == 3
    assert list(tmp_path.iterdir()) == []
    code, out, _ = seqpair(*words, "--seconds", "0")
    assert code == 0
    for line in ("tokens/s", "MFU", "time", "memory", "limit", "6 x (L (4 D^2 + 3 D F)"):
        assert line in out


@pytest.mark.parametrize("words", [["--size", "9b"], ["--member", "neither"], ["--vocab-size", "9"]])
def test_the_verb_refuses_what_it_does_not_know(seqpair, words):
    code, _, err = seqpair("bench", *words)
    assert code == 2
    assert words[0] in err


def test_the_verb_measures_a_prepared_study(seqpair, prepared_study):
    code, out, err = seqpair("bench", prepared_study.recipe, "--member", "encoder", "--seconds", "0", "--json")
    assert code == 0, err
    assert json.loads(out)["seq_len"] == 96
    assert not (prepared_study.folder / "runs").exists()
