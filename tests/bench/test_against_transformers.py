"""transformers on our microbatches computes our loss: so the two clocks time the same work."""

import pytest
import torch
from against_transformers import _Theirs, compare_training, pad_rows

from seqpair.distributed.world import World
from seqpair.errors import SeqpairError
from seqpair.train.assembly import assemble_run
from seqpair.train.feed import work_of_step
from seqpair.train.loop import step_gradients
from seqpair.train.synthetic import synthetic_study

transformers = pytest.importorskip("transformers")


def make_run(folder, member):
    overrides = ["model.attn_out_dropout=0", "runtime.microbatch_tokens=256"]
    plan, prepared = synthetic_study(
        folder, "test", member, vocab_size=512, seq_len=64, batch_tokens=600, precision="fp32", overrides=overrides
    )
    return assemble_run(plan, prepared, World(0, 1, 0, torch.device("cpu"), None))


@pytest.mark.parametrize("member", ["encoder", "decoder"])
def test_their_loss_and_gradient_are_ours(tmp_path, member):
    run = make_run(tmp_path, member)
    seen = []
    run.module.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    phase = run.plan.phases[0]
    ours = step_gradients(run, phase, work_of_step(run, phase, 0))
    assert len(seen) > 1
    rows = [pad_rows(given, run.prepared.tokenizer.specials.pad) for given in seen]
    assert sum(row.predicted for row in rows) == ours.predicted
    theirs = _Theirs(transformers, run, "causal" if member == "decoder" else "bidirectional", rows)
    assert float(theirs.loss()) == pytest.approx(ours.loss, abs=1e-4)
    table = theirs.model.model.embeddings.tok_embeddings.weight
    torch.testing.assert_close(table.grad, run.model.output_weight.grad, rtol=1e-3, atol=1e-5)


def test_a_comparison_says_how_long_and_how_much_is_padding(tmp_path):
    found = compare_training(make_run(tmp_path, "encoder"), rounds=2)
    assert found.lowest_ratio <= found.ratio <= found.highest_ratio
    assert 0 < found.padding_frac < 1
    assert "padding" in found.words()


def test_several_ranks_are_refused(tmp_path):
    run = make_run(tmp_path, "encoder")
    run.world = World(0, 2, 0, torch.device("cpu"), "gloo")
    with pytest.raises(SeqpairError, match="2 ranks"):
        compare_training(run, rounds=1)
