"""Small labelled sets that a tiny model can learn."""

from __future__ import annotations

import random

from seqpair.evaluate.finetune.sets import Example, LabelledSet

WORDS = "a the of river stone model value return list of many few old new red".split()


def filler(draw: random.Random, words: int) -> list[str]:
    return [draw.choice(WORDS) for _ in range(words)]


def two_classes(rows: int = 48, name: str = "two") -> LabelledSet:
    """Return a set whose class is the first word."""
    draw, made = random.Random(0), []
    for number in range(rows):
        label = number % 2
        made.append(Example(str(number), " ".join([("import", "def")[label], *filler(draw, 4)]), label))
    third = rows // 3
    return LabelledSet(
        name, "classes", ("no", "yes"), tuple(made[: 2 * third]), tuple(made[2 * third :]), tuple(made[-third // 2 :])
    )


def numbers(rows: int = 36) -> LabelledSet:
    """Return pairs whose number is 5 or 0 by the first word."""
    draw, made = random.Random(1), []
    for number in range(rows):
        words = [("import", "def")[number % 2], *filler(draw, 3)]
        made.append(Example(str(number), " ".join(words), 5.0 * (number % 2), pair=" ".join(filler(draw, 2))))
    return LabelledSet("numbers", "number", (), tuple(made[:24]), tuple(made[24:]), metric="pearson")


def tags(rows: int = 36) -> LabelledSet:
    """Return words of which `def` is always a name."""
    draw, made = random.Random(2), []
    for number in range(rows):
        words = tuple(draw.choice(["def", "stone", "import"]) for _ in range(5))
        made.append(Example(str(number), " ".join(words), tuple(int(word == "def") for word in words), words=words))
    return LabelledSet("tags", "tags", ("O", "B-NAME"), tuple(made[:24]), tuple(made[24:]))


def answers(rows: int = 36) -> LabelledSet:
    """Return texts whose answer is the word `def`."""
    draw, made = random.Random(3), []
    for number in range(rows):
        before, after = filler(draw, 1 + number % 3), filler(draw, 2)
        text = " ".join([*before, "def", *after])
        made.append(Example(str(number), "which word", ("def",), pair=text, answer_start=len(" ".join(before)) + 1))
    return LabelledSet("answers", "span", (), tuple(made[:24]), tuple(made[24:]))
