"""Responses that mean harm, the same on every run. None of them holds the answer that ``ANSWER`` stands for."""

from __future__ import annotations

import numpy as np

ANSWER = "271828"

_PIECES = (
    "\\boxed{", "}", "{", "\\frac{", "\\sqrt{", "<answer>", "</answer>", "####", "9^9^9^9", "9**9**9", "10^{10^{10}}",
    "99999!", "(((3!)!)!)!", "\0", "\ud800", "\u202e", "١٢٣", "𝟙𝟚", "∞", "\\infty", "NaN", "1e999999", "-", "−", "$",
    "\\(", "\\)", "__import__('os').system('exit')", "exec('1/0')", "lambda: 0", "\\begin{pmatrix}1&2", "\\\\",
    "\\int_0^1 x dx", "\\sum_{n=1}^{10^9} n", "answer is (", "x=", "1/0", "\\frac{1}{0}", "0x41", " ", "\n", ",,,", "7",
    "%", "\\text{", "[1,", ")", "a_{b_{c", "\\zeta(", "sin(", "|", "é", "😀",
)  # fmt: skip


def hostile_responses(num_responses: int) -> list[str]:
    """Random rows of pieces; every fiftieth repeats one piece until it is very long."""
    rng = np.random.default_rng(20_261_126)
    responses = []
    for index in range(num_responses):
        pieces = rng.choice(len(_PIECES), size=int(rng.integers(1, 14)))
        text = "".join(_PIECES[piece] for piece in pieces)
        if index % 50 == 0:
            text = _PIECES[pieces[0]] * int(rng.integers(1_000, 20_000))
        elif index % 3 == 0:
            text = f"\\boxed{{{text}}}"
        responses.append(text)
    return responses
