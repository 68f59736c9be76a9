from dataclasses import dataclass

import pytest

from gps_ray.base.errors import ConfigError
from gps_ray.tasks.splits import apportion, draw_examples, draw_sets


@dataclass(frozen=True)
class Numbered:
    key: int
    variant: str = ""

    @property
    def text(self) -> str:
        return f"{self.key}{self.variant}"

    answer = "1"
    solution = "one"


def _endless(level: str, batch: int) -> list[Numbered]:
    return [Numbered(100 * batch + i, v) for i in range(100) for v in "ab"]


def _ten_keys(level: str, batch: int) -> list[Numbered]:
    return [Numbered(key, v) for key in range(10) for v in "abc"]


SIZES = {"pool": 50, "evaluation": 5, "heldout_probe": 5}


@pytest.mark.parametrize(
    ("total", "shares", "expected"),
    [
        (10, {"a": 1, "b": 1}, {"a": 5, "b": 5}),
        (10, {"a": 2, "b": 1}, {"a": 7, "b": 3}),
        (1, {"a": 1, "b": 1, "c": 1}, {"a": 1, "b": 0, "c": 0}),
        (0, {"a": 3}, {"a": 0}),
        (4000, {"a": 385, "b": 1000, "c": 800, "d": 1815}, {"a": 385, "b": 1000, "c": 800, "d": 1815}),
    ],
)
def test_apportion(total: int, shares: dict[str, int], expected: dict[str, int]) -> None:
    assert apportion(total, shares) == expected


def test_one_variant_per_key_where_there_are_enough() -> None:
    sets = draw_sets("t", "data.t", 0, {"level": 1}, SIZES, _endless)
    texts = [p.text for p in (*sets.pool, *sets.evaluation, *sets.heldout_probe)]
    assert len({text[:-1] for text in texts}) == len(texts) == 60
    assert [p.text for p in sets.pool] != sorted((p.text for p in sets.pool), key=lambda text: int(text[:-1]))


def test_all_variants_of_a_key_in_one_set_where_keys_are_scarce() -> None:
    sets = draw_sets("t", "data.t", 0, {"level": 1}, {"pool": 15, "evaluation": 5, "heldout_probe": 5}, _ten_keys)
    keys = [{p.text[0] for p in split} for split in (sets.pool, sets.evaluation, sets.heldout_probe)]
    assert [len(k) for k in keys] == [5, 2, 2]
    assert len(set.union(*keys)) == 9


def test_too_few_keys() -> None:
    with pytest.raises(ConfigError, match=r"data\.t\.num_pool_prompts: too few level problems"):
        draw_sets("t", "data.t", 0, {"level": 1}, SIZES, _ten_keys)
    with pytest.raises(ConfigError, match=r"data\.t\.num_pool_prompts: too few level problems"):
        draw_sets("t", "data.t", 0, {"level": 1}, SIZES, lambda level, batch: [])


def test_examples_skip_what_is_taken() -> None:
    examples = draw_examples("t", "data.t", 0, {"one": 3, "two": 1}, 400, range(50), _endless)
    assert len(examples) == 400
    assert min(int(text[:-1]) for text, _ in examples) == 50
    with pytest.raises(ConfigError, match="no one problem is left for the warm start"):
        draw_examples("t", "data.t", 0, {"one": 1}, 5, range(10), _ten_keys)
