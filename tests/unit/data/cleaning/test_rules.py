import pytest

from seqpair.data.cleaning.rules import (
    Fault,
    Measured,
    length_fault,
    quality_fault,
    repeated_ngram_frac,
    top_ngram_frac,
)
from seqpair.data.cleaning.words import words_of
from seqpair.recipe.cleaning_spec import LengthSpec, QualitySpec

GOOD = (
    "The harbour was quiet that winter. Boats lay on the sand,\nand nobody came to paint them before the spring.\n\n"
    "In March, 3 men from the village brought tar and rope; by April the first sails were out again.\n"
)
GOPHER = QualitySpec(
    min_letter_frac=0.6,
    max_digit_frac=0.2,
    max_symbol_frac=0.3,
    max_broken_frac=0.01,
    min_mean_word_letters=3,
    max_mean_word_letters=10,
    min_alphabetic_word_frac=0.8,
    max_hash_or_ellipsis_per_word=0.1,
    max_bullet_line_frac=0.9,
    max_ellipsis_line_frac=0.3,
    max_line_characters=1000,
    max_mean_line_characters=300,
    max_repeated_line_frac=0.3,
    max_repeated_paragraph_frac=0.3,
    max_repeated_line_character_frac=0.2,
    max_repeated_paragraph_character_frac=0.2,
    max_top_ngram_frac={2: 0.2, 3: 0.18, 4: 0.16},
    max_repeated_ngram_frac={5: 0.15, 10: 0.1},
)


def measured(text: str) -> Measured:
    words = words_of([text])
    return Measured(text, words.hashes, words.ends - words.starts)


def fault(text: str, **rule: object) -> Fault | None:
    return quality_fault(measured(text), QualitySpec.model_validate(rule))


def test_no_rule_finds_no_fault_and_good_text_breaks_none() -> None:
    assert fault("\x00\x01 ### ... 1 1 1 1 1 1") is None
    assert quality_fault(measured(GOOD), GOPHER) is None
    assert quality_fault(measured("\u6f22\u5b57\u3067\u66f8\u304f\u3002" * 3), QualitySpec(min_letter_frac=0.8)) is None


@pytest.mark.parametrize(
    ("rule", "limit", "bad"),
    [
        ("min_letter_frac", 0.6, "12 + 30 = 42; 7 * 6 = 42 yes"),
        ("max_digit_frac", 0.2, "call 0800 123 456 now"),
        ("max_symbol_frac", 0.3, "|--|--|--| a table |--|--|"),
        ("max_broken_frac", 0.01, "caf\ufffd and \x00\x01 bytes"),
        ("min_mean_word_letters", 3, "a b c d it is so on an up"),
        ("max_mean_word_letters", 10, "incomprehensibilities antidisestablishmentarianism"),
        ("min_alphabetic_word_frac", 0.8, "word 12 13 14 word"),
        ("max_hash_or_ellipsis_per_word", 0.1, "# one # two # three"),
        ("max_hash_or_ellipsis_per_word", 0.1, "well... so... and\u2026 then"),
        ("max_bullet_line_frac", 0.9, "- a\n- b\n* c\n\u2022 d"),
        ("max_ellipsis_line_frac", 0.3, "Read on ...\nAnd more\u2026\nThe end."),
        ("max_line_characters", 40, "a short line\n" + "x" * 41),
        ("max_mean_line_characters", 20, "a line of more than twenty characters\nand another of that kind\n\n\n"),
        ("max_repeated_line_frac", 0.3, "same\nsame\nsame\nother"),
        ("max_repeated_paragraph_frac", 0.3, "same\n\nsame\n\nother"),
        (
            "max_repeated_line_character_frac",
            0.2,
            "a long line that is here twice\nx\ny\nz\na long line that is here twice",
        ),
        ("max_repeated_paragraph_character_frac", 0.2, "a long part that is\nhere\n\nx\n\na long part that is\nhere"),
        ("max_top_ngram_frac", {2: 0.2}, "buy now the good buy now the bad buy now"),
        ("max_repeated_ngram_frac", {5: 0.15}, "one two three four five six. One two three four five six."),
    ],
)
def test_each_rule_finds_what_it_is_for(rule: str, limit: object, bad: str) -> None:
    found = fault(bad, **{rule: limit})
    assert found is not None
    assert found.reason.startswith(f"quality: {rule}")
    assert fault(GOOD, **{rule: limit}) is None or rule in ("max_line_characters", "max_mean_line_characters")


def test_a_limit_is_inclusive_and_the_detail_has_both_numbers() -> None:
    assert fault("ab 12", max_digit_frac=0.5) is None
    found = fault("ab 123", max_digit_frac=0.5)
    assert found == Fault("quality: max_digit_frac", "0.6, at most 0.5 allowed")


def test_the_first_rule_in_the_order_is_named() -> None:
    found = fault("1 2 3 # # #", max_digit_frac=0.1, min_letter_frac=0.5)
    assert found is not None
    assert found.reason == "quality: min_letter_frac"


def test_shares_of_ngrams_by_hand() -> None:
    text = measured("aa bb cc aa bb dd")  # 12 characters in words; "aa bb" stands twice
    assert top_ngram_frac(text, 2) == pytest.approx(8 / 12)
    assert top_ngram_frac(text, 3) == 0.0
    assert repeated_ngram_frac(text, 2) == pytest.approx(4 / 12)
    assert repeated_ngram_frac(measured("aa aa aa aa"), 2) == pytest.approx(6 / 8)  # overlaps count once
    assert repeated_ngram_frac(measured("aa"), 2) == top_ngram_frac(measured(""), 2) == 0.0


def test_length_limits() -> None:
    spec = LengthSpec(min_bytes=4, max_bytes=9, min_words=2, max_words=3)
    assert length_fault(5, 2, spec) is None
    assert length_fault(4, 2, spec) is length_fault(9, 3, spec) is None
    assert length_fault(3, 2, spec) == Fault("length: min_bytes", "3, at least 4 allowed")
    reasons = [length_fault(size, words, spec) for size, words in ((10, 2), (5, 1), (5, 4))]
    assert [found.reason for found in reasons if found] == [
        "length: max_bytes",
        "length: min_words",
        "length: max_words",
    ]
    assert length_fault(0, 0, LengthSpec()) is None
