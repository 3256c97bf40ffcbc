"""Power laws on the page: what is fitted, what is refused and why, and that the extrapolation is called so."""

from dataclasses import replace

import numpy as np
import pytest

from seqpair.report.collect import collect_study
from seqpair.report.member import HeldOutPoint
from seqpair.report.scaling import FURTHER, MOST_LAWS, scaling_laws

FLOOR, COEFFICIENT, EXPONENT = 1.2, 40.0, 0.3
LOOKS = 8


def member_with_looks(study, place=0, **plan):
    """Return a member whose looks lie on a known law of its tokens, with a look before training that does not."""
    member = study.members[place]
    last = member.train[-1].tokens - member.plan.phases[0].lr.decay_tokens
    first = max(member.plan.phases[0].lr.warmup_tokens + 1, last // 30)
    tokens = [int(x) for x in np.geomspace(first, last, LOOKS)]
    looks = [HeldOutPoint(0, "prose", 9.0, 9.0, 0.0)]
    looks += [HeldOutPoint(x, "prose", 3.0, FLOOR + COEFFICIENT * x**-EXPONENT, 0.3) for x in tokens]
    return replace(member, held_out=looks, plan=member.plan.model_copy(update=plan))


def named(table, title):
    return dict(zip([c.label for c in table.columns], next(r for r in table.rows if r[0].text == title), strict=True))


@pytest.fixture
def study(finished_study):
    return collect_study(finished_study)


def test_a_law_is_found_and_what_lies_beyond_it_is_called_an_extrapolation(study):
    member = member_with_looks(study)
    table, (drawing,) = scaling_laws([member])
    row = named(table, "1m encoder, by tokens")
    last = max(point.tokens for point in member.held_out)
    assert row["Exponent of tokens"].value == pytest.approx(EXPONENT, abs=0.02)
    beyond = row[f"At {FURTHER:g} times the tokens (extrapolated)"]
    assert beyond.value == pytest.approx(FLOOR + COEFFICIENT * (FURTHER * last) ** -EXPONENT, rel=0.02)
    assert beyond.low <= beyond.value <= beyond.high
    assert beyond.tag == "extrapolated"
    assert row["Measurements"].value == LOOKS
    assert "taken as independent" in row["Notes"].text
    assert "extrapolated" in drawing.svg
    assert "beyond it" in drawing.svg
    assert "the dashed line is an extrapolation" in drawing.caption


def test_a_law_with_too_few_sizes_is_refused_with_the_reason(study):
    table, _ = scaling_laws([member_with_looks(study)])
    row = named(table, "encoder, by size and tokens")
    assert row["Exponent of tokens"].text == "not fitted"
    assert "1 distinct parameters" in row["Notes"].text
    assert "3 distinct values of each variable" in row["Notes"].text


def test_too_few_looks_are_refused_and_drawn_as_nothing(study):
    member = member_with_looks(study)
    table, drawings = scaling_laws([replace(member, held_out=member.held_out[:4])])
    assert drawings == []
    assert "too few losses" in named(table, "1m encoder, by tokens")["Notes"].text


def test_a_member_that_continues_another_has_no_law(study):
    started = type("Start", (), {})()
    table, drawings = scaling_laws([member_with_looks(study, start=started)])
    assert drawings == []
    assert all("continues another member" in row[-1].text for row in table.rows)


def test_only_so_many_laws_are_fitted_and_the_others_say_so(study, monkeypatch):
    monkeypatch.setattr("seqpair.report.scaling.RESAMPLES", 2)
    members = [member_with_looks(study, size=f"{index}m") for index in range(MOST_LAWS + 1)]
    table, drawings = scaling_laws(members)
    assert len(drawings) == MOST_LAWS
    assert "at most" in named(table, f"{MOST_LAWS}m encoder, by tokens")["Notes"].text


def test_three_sizes_have_a_law_and_a_size_that_was_never_trained_is_called_so(study, monkeypatch):
    monkeypatch.setattr("seqpair.report.scaling.RESAMPLES", 4)
    members = []
    for index, width in enumerate((64, 128, 256)):
        member = member_with_looks(study, size=f"{index}m")
        shape = member.plan.model.shape.model_copy(update={"width": width})
        model = member.plan.model.model_copy(update={"shape": shape})
        looks = [replace(p, bits_per_byte=p.bits_per_byte + 30 / width) for p in member.held_out]
        plan = member.plan.model_copy(update={"model": model})
        members.append(replace(member, name=f"{index}/encoder", study=str(index), held_out=looks, plan=plan))
    table, drawings = scaling_laws(members)
    row = named(table, "encoder, by size and tokens")
    assert row["Exponent of parameters"].value > 0
    assert row["Runs"].value == 3
    assert "never trained, extrapolated" in drawings[0].svg


def test_a_study_without_looks_has_no_table(study):
    assert scaling_laws([replace(study.members[0], held_out=[])]) == (None, [])
