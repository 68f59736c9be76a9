import itertools

import numpy as np

from gps_ray.base.keyed_random import generator, seed_64, uniforms


def test_equal_keys_draw_equal_numbers() -> None:
    first = generator(7, "rollout", 3, "abc", 2).random(5)
    assert np.array_equal(first, generator(7, "rollout", 3, "abc", 2).random(5))


def test_every_part_of_the_key_matters() -> None:
    keys = list(itertools.product((0, 1), ("rollout", "evaluation"), (0, 1), ("a", "b"), (0, 1)))
    assert len({seed_64(*key) for key in keys}) == len(keys)


def test_parts_of_the_key_do_not_run_together() -> None:
    assert seed_64(0, "ab", 0, "c") != seed_64(0, "a", 0, "bc")


def test_seed_fits_a_signed_64_bit_integer() -> None:
    seeds = [seed_64(0, "s", step) for step in range(200)]
    assert min(seeds) >= 0
    assert 2**60 < max(seeds) < 2**63


def test_many_keys_at_once_draw_what_each_draws_alone() -> None:
    keys: list[tuple[str | int, int]] = [("p", 0), ("p", 1), ("other", 0), (7, 2)]
    together = uniforms(5, "rollout", 3, keys, 9)
    assert together.dtype == np.float32
    for row, key in zip(together, keys, strict=True):
        assert row.tobytes() == generator(5, "rollout", 3, *key).random(9, dtype=np.float32).tobytes()
