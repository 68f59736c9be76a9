"""The offline text prior: what it learns, what it keeps on disk, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from gps_ray.base.errors import DataError
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import FloatArray, IntArray
from gps_ray.predictor.calibration import rank_correlation
from gps_ray.predictor.text_prior import TextPrior, fit_text_prior, load_text_prior

TOPICS = {"triangle": -1.5, "prime": -0.5, "average": 0.5, "price": 1.5}


def make_outcomes(num_prompts: int, stream: str) -> tuple[list[str], FloatArray, FloatArray]:
    """Texts whose topic decides the logit, empty embeddings, and the true logits."""
    rng = generator(0, stream)
    topics = rng.choice(list(TOPICS), size=num_prompts)
    texts = [f"Find the {topic} of {rng.integers(1, 999)} and {rng.integers(1, 999)}." for topic in topics]
    logits = np.array([TOPICS[topic] for topic in topics]) + 0.3 * rng.standard_normal(num_prompts)
    embeddings = rng.standard_normal((num_prompts, 8)).astype(np.float32)
    return texts, embeddings, logits


def counts(logits: FloatArray, num_tried: int) -> tuple[IntArray, IntArray]:
    tried = np.full(len(logits), num_tried)
    return generator(1, "counts").binomial(tried, expit(logits)), tried


@pytest.fixture(scope="module")
def prior() -> TextPrior:
    texts, embeddings, logits = make_outcomes(400, "learn")
    return fit_text_prior(texts, embeddings, *counts(logits, 32))


def test_it_predicts_calibrated_logits_of_new_texts(prior: TextPrior) -> None:
    texts, embeddings, logits = make_outcomes(300, "new")
    predicted = prior.logits(texts, embeddings)
    assert rank_correlation(predicted, logits) > 0.85
    assert abs(predicted.mean() - logits.mean()) < 0.15
    slope = np.polyfit(predicted, logits, 1)[0]
    assert slope == pytest.approx(1.0, abs=0.2)
    assert prior.report.heldout_spearman > 0.8
    assert prior.report.num_prompts == 400
    assert prior.report.num_rollouts == 400 * 32


def test_a_saved_prior_predicts_the_same(prior: TextPrior, tmp_path: Path) -> None:
    prior.save(tmp_path / "prior")
    loaded = load_text_prior(tmp_path / "prior")
    texts, embeddings, _ = make_outcomes(50, "new")
    np.testing.assert_array_equal(loaded.logits(texts, embeddings), prior.logits(texts, embeddings))
    assert loaded.report == prior.report


def test_the_same_outcomes_give_the_same_prior(prior: TextPrior) -> None:
    texts, embeddings, logits = make_outcomes(400, "learn")
    again = fit_text_prior(texts, embeddings, *counts(logits, 32))
    np.testing.assert_array_equal(again.weights, prior.weights)


def test_a_prompt_with_many_tries_outweighs_one_with_few() -> None:
    """Half of the labels say the opposite of the truth: with 64 tries they drown the others, with one they do not."""
    texts, embeddings, logits = make_outcomes(300, "learn")
    new_texts, new_embeddings, new_logits = make_outcomes(300, "new")
    lying = np.arange(300) % 2 == 0
    ranks = {}
    for num_tried in (64, 1):
        right, tried = counts(logits, 64)
        right[lying], tried[lying] = num_tried * (logits[lying] < 0), num_tried
        predicted = fit_text_prior(texts, embeddings, right, tried).logits(new_texts, new_embeddings)
        ranks[num_tried] = rank_correlation(predicted, new_logits)
    assert ranks[64] < 0.2
    assert ranks[1] > 0.5


def test_a_rate_of_nought_is_not_minus_infinity() -> None:
    """Smoothing by n / 20 keeps the labels within +-3.05 however many tries there are."""
    texts, embeddings, logits = make_outcomes(200, "learn")
    right = np.where(logits > 0, 10_000, 0)
    predicted = fit_text_prior(texts, embeddings, right, np.full(200, 10_000)).logits(texts, embeddings)
    assert np.median(np.abs(predicted)) < 3.05
    assert np.abs(predicted).max() < 5


def test_what_cannot_be_learnt_from_is_refused(prior: TextPrior) -> None:
    texts, embeddings, logits = make_outcomes(60, "learn")
    right, tried = counts(logits, 8)
    with pytest.raises(DataError, match="at least 50 prompts to learn from, got 49"):
        fit_text_prior(texts[:49], embeddings[:49], right[:49], tried[:49])
    with pytest.raises(DataError, match=r"all 60 prompts have the success rate 0\.5"):
        fit_text_prior(texts, embeddings, tried // 2, tried)
    with pytest.raises(DataError, match=r"dimension 8, got 3; set selection\.features"):
        prior.logits(texts, embeddings[:, :3])


def test_what_is_no_prior_is_refused_in_one_line(prior: TextPrior, tmp_path: Path) -> None:
    prior.save(tmp_path)
    about = tmp_path / "text_prior.json"
    whole = about.read_text()
    about.write_text(json.dumps({**json.loads(whole), "format": 99}))
    with pytest.raises(DataError, match="another format"):
        load_text_prior(tmp_path)
    for broken in ("{", "[]", "{}", json.dumps({"format": 2, "surprise": 1})):
        about.write_text(broken)
        with pytest.raises(DataError, match=r"jobs\.pretrain_predictor.*change selection\.fused\.text_prior") as error:
            load_text_prior(tmp_path)
        assert "\n" not in str(error.value)
    about.write_text(whole)
    (tmp_path / "text_prior.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0notjson!")
    with pytest.raises(DataError, match="expected a text prior"):
        load_text_prior(tmp_path)
