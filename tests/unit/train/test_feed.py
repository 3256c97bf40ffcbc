"""Work made ahead: in order, bounded, with the thread's errors, a clean stop, and not one bit other than without."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from pretended_ranks import works_of_all_ranks

from seqpair.data.order.batches import read_batch, read_sequences
from seqpair.data.order.ledger import LedgerRecord
from seqpair.distributed.world import World
from seqpair.errors import DataError
from seqpair.train import feed
from seqpair.train.assembly import assemble_run
from seqpair.train.feed import MadeAhead, StepFeed, steps_ahead, work_of_step
from seqpair.train.loop import step_gradients
from seqpair.train.synthetic import synthetic_study


def make_run(folder, ahead, member="encoder", tokens=600):
    overrides = ["runtime.microbatch_tokens=256", f"runtime.prefetch_batches={ahead}"]
    overrides += ["members.mixed={objective: {hybrid: {causal_frac: 0.25}}}"] if member == "mixed" else []
    plan, prepared = synthetic_study(
        folder, "test", member, vocab_size=512, seq_len=64, batch_tokens=tokens, precision="fp32", overrides=overrides
    )
    return assemble_run(plan, prepared, World(0, 1, 0, torch.device("cpu"), None))


def test_results_come_in_order_and_never_more_than_asked_for_lie_ready():
    made = []
    ahead = MadeAhead(iter([lambda n=n: made.append(n) or n for n in range(20)]), 3)
    taken = []
    for count in range(20):
        taken.append(ahead.take())
        time.sleep(0.002)
        assert count + 1 <= len(made) <= count + 4
    ahead.close()
    assert taken == list(range(20))


def test_an_error_of_the_thread_is_raised_where_its_result_is_taken():
    def fail():
        raise DataError("the disk is gone")

    ahead = MadeAhead(iter([lambda: 1, fail, lambda: 3]), 3)
    assert ahead.take() == 1
    with pytest.raises(DataError, match="the disk is gone"):
        ahead.take()
    ahead.close()


def test_close_waits_for_the_maker_that_runs_and_calls_no_other():
    began, goes_on, ended = threading.Event(), threading.Event(), []

    def slow():
        began.set()
        assert goes_on.wait(10)
        ended.append(1)

    before = threading.active_count()
    ahead = MadeAhead(iter([slow, slow, slow]), 3)
    assert began.wait(10)
    threading.Timer(0.05, goes_on.set).start()
    ahead.close()
    assert ended == [1]
    assert threading.active_count() <= before + 1  # the timer may not be gone yet


def test_a_run_makes_nothing_ahead_on_a_cpu_unless_it_is_told_to(tmp_path):
    assert steps_ahead(make_run(tmp_path / "a", "null")) == 0
    assert steps_ahead(make_run(tmp_path / "b", 3)) == 3


@pytest.mark.parametrize("member", ["encoder", "decoder"])
def test_steps_made_ahead_have_the_bits_of_those_made_in_time(tmp_path, member):
    found = []
    for ahead in (0, 2):
        run = make_run(tmp_path / str(ahead), ahead, member)
        phase = run.plan.phases[0]
        source = StepFeed(run, ((phase, step) for step in range(4)))
        losses = [step_gradients(run, phase, source.take()) for _ in range(4)]
        source.close()
        found.append((losses, [parameter.grad.clone() for parameter in run.model.parameters()]))
    (losses, grads), (losses_ahead, grads_ahead) = found
    assert losses == losses_ahead
    assert all(torch.equal(one, other) for one, other in zip(grads, grads_ahead, strict=True))


def test_the_feed_gives_the_steps_it_was_told_and_stops_reading_when_closed(tmp_path, monkeypatch):
    run = make_run(tmp_path, 2)
    phase, read = run.plan.phases[0], []
    share = feed.share_of_step
    monkeypatch.setattr(feed, "share_of_step", lambda run, phase, step: read.append(step) or share(run, phase, step))
    source = StepFeed(run, ((phase, step) for step in range(7, 100)))
    assert source.take().record.step == 7
    source.close()
    assert read == list(range(7, 7 + len(read)))
    assert len(read) <= 3  # the one that was taken and two ahead


@pytest.mark.parametrize("member", ["encoder", "decoder", "mixed"])
def test_a_rank_reads_its_share_only_and_all_ranks_know_the_whole_step(tmp_path, monkeypatch, member):
    run = make_run(tmp_path, 0, member, tokens=2500)
    phase, read, specials = run.plan.phases[0], [], run.prepared.tokenizer.specials
    whole = read_batch(run.orders[phase.name], 0)
    monkeypatch.setattr(feed, "read_sequences", lambda *given: read.append(given[2].lengths) or read_sequences(*given))
    alone = work_of_step(run, phase, 0)
    predicted = [made.target_ids.sort().values for made in alone.microbatches]
    assert alone.record == LedgerRecord.of(whole)
    assert sum(map(len, predicted)) == alone.predicted
    for ranks in (2, 4, 64):
        read.clear()
        found = works_of_all_ranks(lambda world: replace(run, world=world), phase, 0, ranks)
        assert sorted(np.concatenate(read)) == sorted(whole.lengths)
        parts = 2 if member == "mixed" else 1
        assert max(lengths.sum() + lengths.size for lengths in read) <= parts * (alone.tokens / ranks + phase.seq_len)
        made = [list(work.microbatches) for _, work in found]
        assert len({len(microbatches) for microbatches in made}) == 1
        assert len({tuple(one.direction for one in microbatches) for microbatches in made}) == 1
        targets = torch.cat([one.target_ids for microbatches in made for one in microbatches])
        assert torch.equal(targets.sort().values, torch.cat(predicted).sort().values)
        without = [one for microbatches in made for one in microbatches if not one.target_ids.numel()]
        assert all(one.ids.tolist() == [specials.cls] and one.filler_tokens == 1 for one in without)
        assert without or ranks < 64
        for _, work in found:
            same = (work.record, work.divisor, work.predicted, work.tokens)
            assert same == (alone.record, alone.divisor, alone.predicted, alone.tokens)


def test_a_copy_of_a_microbatch_has_all_its_tensors_changed_and_nothing_derived(tmp_path):
    run = make_run(tmp_path, 0)
    phase = run.plan.phases[0]
    given = next(iter(work_of_step(run, phase, 0).microbatches))
    given.layout.derive("something", lambda: 1)
    copied = given.map_tensors(lambda tensor: tensor.clone())
    pairs = [(getattr(given, name), getattr(copied, name)) for name in ("ids", "output_index", "target_ids")]
    pairs += [(getattr(given.layout, n), getattr(copied.layout, n)) for n in ("starts", "positions", "sequence_ids")]
    for one, other in pairs:
        assert torch.equal(one, other)
        assert one.data_ptr() != other.data_ptr()
    assert copied.layout.lengths == given.layout.lengths
    assert copied.layout.derive("something", lambda: 2) == 2
    assert given.layout.derive("something", lambda: 3) == 1
