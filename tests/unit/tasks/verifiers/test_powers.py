import pytest

from gps_ray.tasks.verifiers.powers import is_explosive

TOWERS = (
    "9^9^9", "9**9**9", "9**-9**9", "9**(9**9)", "2^{2^{9}}", "9^{9}^{9}", "9^{ 9^{ x } }", "x^{9^{9^9}}", "9^{x+9^9}",
    "10^{(9)^{9}}", "2**99999", "2^{99999}", "99999^{9999}", "(9^{999})^{999}", "\\left(9^{999}\\right)^{999}",
    "((9^{99})^{99})^{99}", "(x+1)^{2024}", "12345!", "n!!", "(5!)!", "(9^9)!", "9^{99!}",
)  # fmt: skip
FORMULAS = (
    "x^2+y^2", "x^{2}+y^{2}=4", "x^4+4x^3+6x^2", "x**2/2 + x**3/3 + C", "2^{n}+3^{n}", "2^{2024}", "x^{2024}-1",
    "10^{100}", "e^{-x^2}", "2^{x^2}", "(x^2+1)^2", "(x^2+y^2)^{10}", "(2^3)^2", "n!", "2017!", "a_{1}^2+a_{2}^2",
    "\\sqrt{x^2+y^2}^3", "9^{9}+9^{9}", "2^{3x}9^2", "2^3\\cdot 3^2\\cdot 5^2",
)  # fmt: skip


@pytest.mark.parametrize("formula", TOWERS)
def test_what_would_be_computed_for_ever_is_explosive(formula: str) -> None:
    assert is_explosive(formula)


@pytest.mark.parametrize("formula", FORMULAS)
def test_powers_side_by_side_are_no_tower(formula: str) -> None:
    assert not is_explosive(formula)


def test_brackets_that_do_not_match_are_read_to_the_end() -> None:
    assert is_explosive("9^" * 300)
    assert not is_explosive("(" * 300 + "x^2")
    assert not is_explosive("x^2" + ")" * 300)
