"""The library as its users write it: the example first, then what it promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import gps_ray
from gps_ray.base.types import IntArray

PROMPTS = [f"What is {a} + {b} ?" for a in range(1, 16) for b in range(1, 11)]


def _solved(rows: IntArray, seed: int = 0) -> IntArray:
    """How many of 8 answers of a made-up policy are right: small sums it knows, large ones it does not."""
    sums = np.array([sum(int(word) for word in PROMPTS[row].split() if word.isdigit()) for row in rows])
    return np.random.default_rng(seed).binomial(8, 1 / (1 + np.exp(sums - 9.0)))


def test_the_example(tmp_path: Path) -> None:
    selector = gps_ray.Selector(PROMPTS, "gps_fused", group_size=8, seed=0)
    useful = []
    for _step in range(20):
        rows = selector.next(16)  # which prompts to roll out
        num_right = _solved(rows)  # your policy and your verifier: 8 answers to each
        selector.update(rows, num_right, num_tried=8)
        useful.append(np.mean(gps_ray.is_useful(num_right, np.full(16, 8))))
    expected = selector.predict(["What is 1 + 2 ?", "What is 4 + 5 ?", "What is 90 + 9 ?"])
    samples = gps_ray.allocate(selector.predict(), total=300, maximum=8)
    selector.save(tmp_path / "selector.safetensors")
    selector = gps_ray.Selector.load(tmp_path / "selector.safetensors", PROMPTS)

    assert expected.mean[0] > expected.mean[1] > expected.mean[2]
    assert expected.useful[1] == max(expected.useful)
    assert (samples.sum(), samples.max() <= 8, len(samples)) == (300, True, len(PROMPTS))
    assert np.mean(useful[10:]) > np.mean(gps_ray.is_useful(_solved(np.arange(150)), np.full(150, 8))) + 0.15


def test_the_public_names_are_these() -> None:
    names = (
        "CheckpointError ConfigError DataError GpsRayError Prediction PromptFeed SelectionConfig Selector UsageError"
    )
    names += " allocate explain group_sizes is_useful selector_names"
    assert gps_ray.__all__ == names.split()
    for name in gps_ray.__all__:
        assert getattr(gps_ray, name).__doc__, name
    assert set(gps_ray.__all__) <= set(dir(gps_ray))
    with pytest.raises(AttributeError, match="has no 'Selectr'; it has CheckpointError, "):
        _ = gps_ray.Selectr


# All but gps_paper, which is gps with a network of 20 M parameters: the same code and a minute.
_SAVED = [name for name in gps_ray.selector_names() if name != "gps_paper"]


@pytest.mark.parametrize("name", [*_SAVED, "examples.own_selector:ShortestFirst"])
def test_a_loaded_selector_makes_the_choices_of_the_saved_one(name: str, tmp_path: Path) -> None:
    selector = gps_ray.Selector(PROMPTS, name, seed=3, random_share=0.25)
    for step in range(3):
        rows = selector.next(12)
        selector.update(rows, _solved(rows, step), 8)
    in_flight = selector.next(6)  # rollouts run ahead: their outcomes are not known yet
    selector.save(tmp_path / "state")
    loaded = gps_ray.Selector.load(tmp_path / "state", PROMPTS)
    assert loaded.in_flight.tolist() == sorted(in_flight.tolist())
    for step in range(3, 6):
        rows, same = selector.next(12), loaded.next(12)
        assert rows.tolist() == same.tolist()
        assert not set(rows.tolist()) & set(in_flight.tolist())
        for each in (selector, loaded):
            each.update(rows, _solved(rows, step), 8)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_what_is_in_flight_is_not_chosen_again_until_it_is_heard_of() -> None:
    selector = gps_ray.Selector(PROMPTS[:30], seed=1)
    first, second = selector.next(12), selector.next(12)
    assert not set(first.tolist()) & set(second.tolist())
    with pytest.raises(gps_ray.UsageError, match=r"expected 1 to 6 prompts \(30 in the pool, 24 in flight\), got 7"):
        selector.next(7)
    selector.update(first, 0, 0)  # dropped: nothing is learnt
    assert not selector.predict(first).seen.any()
    assert len(selector.next(18)) == 18


def test_a_text_outside_the_pool_is_predicted_as_if_it_had_always_been_there() -> None:
    selector = gps_ray.Selector(PROMPTS)
    for step in range(6):
        rows = selector.next(16)
        selector.update(rows, _solved(rows, step), 8)
    pool, mixed = selector.predict(), selector.predict(["What is 2 + 3 ?", "What is 44 + 55 ?", PROMPTS[7]])
    assert mixed.mean[0] > mixed.mean[1]
    assert mixed.mean[2] == pytest.approx(pool.mean[7], abs=1e-6)
    # A chat is its turns; the one that stands in the pool is known by its row.
    assert selector.predict([[{"role": "user", "content": PROMPTS[7]}]]).mean[0] == pytest.approx(pool.mean[7])
    assert selector.predict(np.array([7])).mean[0] == pytest.approx(pool.mean[7])


def test_embeddings_of_ones_own_replace_the_word_vectors() -> None:
    vectors = np.random.default_rng(0).normal(size=(len(PROMPTS), 5))
    selector = gps_ray.Selector(PROMPTS, embeddings=vectors)
    selector.update(np.arange(20), 8, 8)
    assert selector.predict().mean[:20].mean() > 0.8
    with pytest.raises(gps_ray.UsageError, match="1 texts are not in the pool, and have no embeddings; give rows"):
        selector.predict(["new"])
    with pytest.raises(gps_ray.CheckpointError, match="other prompts or embeddings"):
        gps_ray.Selector(PROMPTS, embeddings=-vectors).load_state(selector.state())


WRONG = [
    (lambda s: s.update([0, 150], 1, 8), "update: rows: expected rows 0 to 149, got 150"),
    (lambda s: s.update([0], [9], [8]), "update: expected 0 <= num_right <= num_tried, got 9 right of 8 at place 0"),
    (lambda s: s.update([0, 1], [0.5, 0.25], 8), "num_right: expected 2 whole numbers or one, .*do not give rates"),
    (lambda s: s.update([0, 1], [1, 2, 3], 8), r"num_right: expected 2 whole numbers or one, got shape \(3,\)"),
    (lambda s: s.update([0.0], 1, 8), "update: rows: expected a list of whole numbers, got shape .* of float64"),
    (
        lambda s: s.update([0, 1], 1, 8, [4, -1]),
        "response_lengths: expected 2 mean numbers of tokens or one, at least 0",
    ),
    (
        lambda s: gps_ray.Selector(PROMPTS, acquisition="useful_per_token").update([0], 1, 8),
        "response_lengths: useful_per_token needs the mean tokens of each row's responses, got none",
    ),
    (lambda s: gps_ray.Selector(PROMPTS, "uniform").expected_lengths(), "'uniform' keeps no lengths; use gps_fused"),
    (lambda s: s.next(0), "next: expected 1 to 150 prompts"),
    (
        lambda s: s.predict([3.5]),
        "prompts: expected texts in Unicode, or chats of turns with 'role' and 'content', got 3.5",
    ),
    (lambda s: gps_ray.Selector([]), "prompts: expected at least one, got none"),
    (lambda s: gps_ray.Selector("one"), "expected a sequence of texts or chats, got one text"),
    (lambda s: gps_ray.Selector(PROMPTS, "gpz"), "expected one of arcus, .*got 'gpz'"),
    (lambda s: gps_ray.Selector(PROMPTS, "oracle"), "must be told success rates before it chooses"),
    (lambda s: gps_ray.Selector(PROMPTS, "ds"), "a filter of your trainer's; use 'uniform'"),
    (lambda s: gps_ray.Selector(PROMPTS, random_shore=0.2), "random_shore: unknown key; known here: "),
    (lambda s: gps_ray.Selector(PROMPTS, num_prompts=4), r"num_prompts: .*say it in next\(num_prompts\)"),
    (lambda s: gps_ray.Selector(PROMPTS, group_size=0), "group_size: expected at least 1 rollout per prompt, got 0"),
    (lambda s: gps_ray.Selector(PROMPTS, embeddings=[[1.0]]), r"embeddings: expected finite numbers \[150, E\]"),
    (lambda s: gps_ray.Selector(PROMPTS, "uniform").predict(), "selector 'uniform' predicts nothing; use gps_fused"),
    (lambda s: gps_ray.Selector(PROMPTS[1:]).load_state(s.state()), "belongs to other prompts or embeddings"),
    (lambda s: gps_ray.Selector(PROMPTS, seed=1).load_state(s.state()), "make the selector with the same arguments"),
    (lambda s: s.load_state({}), "it was not written by gps_ray.Selector"),
    (lambda s: gps_ray.allocate([0.5, 1.5], 4), "success rates .N. between 0 and 1"),
    (lambda s: gps_ray.allocate([0.5, 0.5], 400), "budget: 2 prompts with 0 to 64 samples each take 0 to 128 in all"),
    (lambda s: gps_ray.group_sizes([0.5], 4, minimum=1), "group_sizes: expected 2 <= minimum <= maximum, got 1 and 64"),
    (lambda s: s.update([0], [1], [np.inf]), "num_tried: expected 1 whole numbers or one"),
    (lambda s: s.update([0], [2**40], [2**40]), "num_right: expected at most 2147483647 rollouts, got 1099511627776"),
    (lambda s: s.next(1.5), "next: expected a whole number, got 1.5"),
    (lambda s: s.next(True), "next: expected a whole number, got True"),
    (lambda s: s.predict("one text"), "predict: prompts: expected a list of rows or of texts, got 'one text'"),
    (lambda s: s.predict(3), "predict: prompts: expected a list of rows or of texts, got 3"),
    (lambda s: gps_ray.Selector({"text": 1}), "expected a sequence of texts or chats, got a mapping"),
    (lambda s: gps_ray.Selector([[]]), "expected texts in Unicode, or chats of turns .*got \\[\\]"),
    (lambda s: gps_ray.Selector(["\ud800"]), "expected texts in Unicode"),
    (lambda s: gps_ray.Selector(PROMPTS, group_size=1.5), "group_size: expected a whole number, got 1.5"),
    (lambda s: gps_ray.Selector(PROMPTS, seed="x"), "seed: expected a whole number, got 'x'"),
    (lambda s: gps_ray.Selector(PROMPTS, features=None), "features: expected a mapping"),
    (lambda s: gps_ray.Selector(PROMPTS, embeddings=np.zeros((150, 0))), r"embeddings: .*got shape \(150, 0\)"),
    (lambda s: gps_ray.Selector(["a"], embeddings=[["b"]]), "embeddings: expected finite numbers"),
    (
        lambda s: s.load_state({"made_with": s.state()["made_with"], "prompts": s.state()["prompts"]}),
        "has no in_flight",
    ),
    (lambda s: gps_ray.allocate([0.5, np.nan], 4), "between 0 and 1, got nan"),
    (lambda s: gps_ray.allocate(["a"], 4), "allocate: expected a Prediction or success rates"),
    (lambda s: gps_ray.allocate([0.5], 2.5), "allocate: total: expected a whole number, got 2.5"),
    (lambda s: gps_ray.explain("rollout.group_sice"), "known are for instance rollout.group_size"),
]


@pytest.fixture(scope="module")
def untouched() -> gps_ray.Selector:
    return gps_ray.Selector(PROMPTS)


@pytest.mark.parametrize(("call", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_wrong_use_is_one_line_and_changes_nothing(untouched: gps_ray.Selector, call: object, message: str) -> None:
    with pytest.raises(gps_ray.GpsRayError, match=message) as found:
        call(untouched)  # type: ignore[operator]
    assert "\n" not in str(found.value)
    assert (untouched.num_updates, len(untouched.in_flight)) == (0, 0)


def test_lengths_are_learnt_where_they_are_told() -> None:
    selector = gps_ray.Selector(PROMPTS)
    selector.update([0, 1], 4, 8)
    assert np.isnan(selector.expected_lengths([0, 5])).all()
    selector.update([0, 1, 2], 4, 8, [200.0, np.nan, 20.0])
    expected = selector.expected_lengths()
    assert expected.shape == (len(PROMPTS),)
    assert 20 <= expected.min() < expected[0] <= 200


def test_allocation_takes_rates_or_a_posterior_and_groups_need_two() -> None:
    assert gps_ray.allocate([0.0, 0.5, 1.0], 6, maximum=4).tolist()[2] == 1
    sizes = gps_ray.group_sizes([0.5, 0.05], 16)
    assert sizes.sum() == 16
    assert sizes[1] > sizes[0] >= 2


def test_explain_says_what_stands_at_the_key() -> None:
    assert "rollout.group_size: integer >= 1, in rollouts; default 8" in gps_ray.explain("rollout.group_size")
    with pytest.raises(gps_ray.GpsRayError, match=r"known are for instance selection\.fused\.num_features"):
        gps_ray.explain("num_features")
    assert "selection.fused: " in gps_ray.explain()
