"""Rows: the template of each model, what is cut, and where labels stand."""

from __future__ import annotations

import numpy as np
import pytest

from seqpair.errors import EvaluationError
from seqpair.evaluate.finetune.metrics import best_span
from seqpair.evaluate.finetune.rows import NOT_A_LABEL, RowMaker
from seqpair.evaluate.finetune.sets import Example

PAIR = Example("1", "the river", 1, pair="a stone model")


def test_an_encoders_row_is_what_its_tokenizer_makes(models):
    (row,) = RowMaker(models["mlm"], 64).make([PAIR], "classes")
    assert row.ids.tolist() == models["mlm"].tokenizer(PAIR.text, PAIR.pair)["input_ids"]
    (single,) = RowMaker(models["mlm"], 64).make([Example("1", "the river", 1)], "classes")
    assert single.ids.tolist() == models["mlm"].tokenizer("the river")["input_ids"]


def test_a_decoders_row_has_the_same_form(models):
    model = models["clm"]
    (row,) = RowMaker(model, 64).make([PAIR], "classes")
    first, second = model.encode([PAIR.text, PAIR.pair])
    assert row.ids.tolist() == [model.cls_id, *first, model.sep_id, *second, model.sep_id]
    (encoder,) = RowMaker(models["mlm"], 64).make([PAIR], "classes")
    assert row.ids.tolist() == encoder.ids.tolist()


def test_the_longer_text_gives_first_and_what_is_cut_is_counted(models):
    maker = RowMaker(models["mlm"], 16)
    long, short = "stone " * 30, "a"
    rows = maker.make([Example("1", long, 0, pair=short), Example("2", short, 0, pair=short)], "classes")
    tokens = [len(ids) for ids in models["mlm"].encode([long, short])]
    assert len(rows[0].ids) == 16
    assert (maker.rows, maker.truncated_rows) == (2, 1)
    assert maker.cut_tokens == sum(tokens) + 3 - 16
    assert rows[0].ids[-2:-1].tolist() == models["mlm"].encode([short])[0].tolist()[-1:]
    assert len(maker.make([Example("1", long, 0, pair=long)], "classes")[0].ids) == 16
    with pytest.raises(EvaluationError, match="no room"):
        RowMaker(models["mlm"], 4)


def test_a_word_has_its_tag_at_its_first_token_only(models):
    words = ("import", "unfathomable", "x")
    example = Example("1", " ".join(words), (0, 1, 2), words=words)
    (row,) = RowMaker(models["clm"], 64).make([example], "tags")
    assert [int(row.label[place]) for place in row.word_places] == [0, 1, 2]
    assert int((row.label != NOT_A_LABEL).sum()) == 3
    spans = models["clm"].tokenizer(example.text, add_special_tokens=False, return_offsets_mapping=True)
    starts = {start for start, _ in spans["offset_mapping"]}
    assert {0, 7}.issubset(starts | {start + 1 for start in starts})
    maker = RowMaker(models["clm"], 8)
    (cut,) = maker.make([example], "tags")
    assert cut.word_places[-1] == -1
    assert maker.lost_labels >= 1


def test_an_answer_is_found_again_from_its_positions(models):
    text = "the old stone model of a river"
    example = Example("1", "what", ("stone model",), pair=text, answer_start=8)
    (row,) = RowMaker(models["mlm"], 64).make([example], "span")
    outputs = np.zeros((len(row.ids), 2))
    outputs[row.label[0], 0] = outputs[row.label[1], 1] = 5.0
    assert best_span(outputs, row.places, text) == "stone model"
    outputs[row.label[1], 1], outputs[row.label[0] - 1, 1] = 0.0, 4.0  # an end before the begin does not count
    assert best_span(outputs, row.places, text).startswith("st")


def test_an_answer_that_was_cut_is_counted_and_not_learned(models):
    example = Example("1", "what", ("river",), pair="stone " * 30 + "river", answer_start=180)
    maker = RowMaker(models["mlm"], 16)
    assert maker.make([example], "span", to_learn=True) == []
    assert len(maker.make([example], "span")) == 1
    assert maker.lost_labels == 2


def test_only_a_targets_tokens_and_its_end_are_learned(models):
    model = models["clm"]
    (row,) = RowMaker(model, 64).make([Example("1", "one:\n", "def x")], "text")
    prompt, target = model.encode(["one:\n", "def x"])
    assert row.ids.tolist() == [model.cls_id, *prompt, *target, model.sep_id]
    assert row.label[: 1 + len(prompt)].tolist() == [NOT_A_LABEL] * (1 + len(prompt))
    assert row.label[1 + len(prompt) :].tolist() == [*target, model.sep_id]


def test_a_long_prompt_loses_its_beginning_and_a_long_target_its_end(models):
    model, maker = models["clm"], RowMaker(models["clm"], 16)
    first, second = maker.make([Example("1", "stone " * 30, "def"), Example("2", "a", "stone " * 30)], "text")
    target = model.encode(["def"])[0].tolist()
    assert (len(first.ids), len(second.ids)) == (16, 16)
    assert first.label[-1 - len(target) :].tolist() == [*target, model.sep_id]
    assert second.label[-1] == NOT_A_LABEL  # it does not end there
    assert maker.truncated_rows == 2
    assert maker.lost_labels > 0


def test_a_chat_is_written_in_the_tokenizers_own_template_or_with_roles(models):
    model, turns = models["clm"], (("user", "one"), ("assistant", "two"), ("user", "three"))
    maker = RowMaker(model, 64)
    example = Example("1", "", "four", turns=turns)
    assert maker.prompt(example) == "user: one\nassistant: two\nuser: three\nassistant: "
    model.tokenizer.chat_template = (
        "[CLS]{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    try:
        assert maker.prompt(example) == "<user>one<assistant>two<user>three<assistant>"
    finally:
        model.tokenizer.chat_template = None
