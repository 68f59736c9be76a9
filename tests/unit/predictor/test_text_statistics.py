"""Text statistics against values counted by hand."""

from __future__ import annotations

import numpy as np

from gps_ray.predictor.text_statistics import LENGTHS, NAMES, text_statistics


def _named(text: str) -> dict[str, float]:
    return dict(zip(NAMES, text_statistics([text])[0].tolist(), strict=True))


def test_a_prompt_counted_by_hand() -> None:
    values = _named("Add 3, 12 and 5: \\frac{1}{2}? Add!")
    # Words: Add and Add. The command is a token of its own and no word.
    assert values["characters"] == np.log1p(34)
    assert values["words"] == np.log1p(3)
    assert values["commands"] == values["distinct_commands"] == np.log1p(1)
    assert values["numbers"] == np.log1p(5)
    assert values["distinct_word_share"] == 2 / 3
    assert values["count_'{'"] == np.log1p(2)
    assert values["count_'?'"] == np.log1p(1)
    assert values["upper_case_share"] == 2 / 34
    assert values["digit_share"] == 6 / 34
    assert values["number_first"] == np.log1p(3)
    assert values["number_last"] == np.log1p(2)
    assert values["number_min"] == np.log1p(1)
    assert values["number_largest_1"] == np.log1p(12)
    assert values["number_largest_4"] == np.log1p(2)
    assert values["last_against_sum"] == np.log1p(2) - np.log1p(3 + 12 + 5 + 1)
    assert values["even_share"] == 2 / 5


def test_characters_beyond_ascii_are_counted_too() -> None:
    values = _named("\u00c4\u00d6 X1 \u0663 \u00fc")  # two capitals, an Arabic digit, a small letter
    assert values["upper_case_share"] == 3 / 9
    assert values["digit_share"] == 2 / 9
    assert values["non_ascii_share"] == 4 / 9


def test_texts_without_words_or_numbers_and_with_huge_ones_stay_finite() -> None:
    texts = ["", " ", "??", "né 数学", "9" * 400 + " and " + "9" * 400, "\x00\ud800"]
    values = text_statistics(texts)
    assert values.shape == (len(texts), len(NAMES))
    assert np.isfinite(values).all()
    assert not values[0].any()
    assert text_statistics([]).shape == (0, len(NAMES))


def test_the_lengths_come_first() -> None:
    assert NAMES[: len(LENGTHS)] == LENGTHS
    assert len(set(NAMES)) == len(NAMES)


def test_a_text_has_the_same_statistics_alone_and_among_others() -> None:
    texts = ["", "x\u00b2 = 4", "1 2.5 3", " ".join(map(str, range(40))), "\\alpha 7 \u0663", "8 9 10", "9" * 400]
    together = text_statistics(texts)
    assert np.array_equal(together, np.concatenate([text_statistics([text]) for text in texts]))
    assert together[1, NAMES.index("numbers")] == np.log1p(2)  # the raised two is one
    assert together[3, NAMES.index("number_last")] == np.log1p(31)  # of the first 32
