import numpy as np

from gps_ray.base.types import Prompt, RolloutStatus, Sampling
from gps_ray.config import SimulatedConfig
from gps_ray.rollout.engine import EngineRequest
from gps_ray.rollout.simulated_engine import SimulatedEngine, SimulatedTask, success_rates
from gps_ray.weights.object_store import ObjectStorePayload


def _prompts(num: int, num_words: int = 12) -> list[Prompt]:
    rng = np.random.Generator(np.random.Philox(5))
    texts = [" ".join(map(str, rng.integers(0, 2000, num_words))) for _ in range(num)]
    return [Prompt(prompt_id=f"p{i}", text=text, answer="", task="simulated") for i, text in enumerate(texts)]


def _request(prompts: list[Prompt], num_rollouts: int, step: int = 1) -> EngineRequest:
    return EngineRequest(
        run_seed=0,
        stream="rollout",
        step=step,
        prompts=prompts,
        num_rollouts=np.full(len(prompts), num_rollouts, np.int32),
        sampling=Sampling(temperature=1.0, max_response_tokens=4),
    )


def _logits(config: SimulatedConfig, prompts: list[Prompt], version: int = 0) -> np.ndarray:
    rates = success_rates(prompts, config, version)
    return np.log(rates / (1 - rates))


def test_logits_have_the_configured_mean_and_spread() -> None:
    prompts = _prompts(800)
    for share in (0.0, 0.5, 1.0):
        logits = _logits(SimulatedConfig(initial_logit_mean=-0.5, initial_logit_std=1.5, text_share=share), prompts)
        assert abs(logits.mean() + 0.5) < 0.15
        assert abs(logits.std() - 1.5) < 0.15


def test_the_words_decide_their_share_of_the_variance() -> None:
    prompts = _prompts(800)
    twins = [Prompt(prompt_id="other" + p.prompt_id, text=p.text, answer="", task="") for p in prompts]
    for share in (0.0, 0.5, 1.0):
        config = SimulatedConfig(text_share=share)
        correlation = np.corrcoef(_logits(config, prompts), _logits(config, twins))[0, 1]
        assert abs(correlation - share) < 0.1


def test_rates_drift_with_the_policy_version_only() -> None:
    prompts = _prompts(800)
    config = SimulatedConfig(drift_per_version=0.1, drift_std=0.05)
    moved = _logits(config, prompts, 10) - _logits(config, prompts, 0)
    assert abs(moved.mean() - 1.0) < 0.05
    assert abs(moved.std() - 0.5) < 0.05
    even = SimulatedConfig(drift_per_version=0.1)
    np.testing.assert_allclose(_logits(even, prompts, 3) - _logits(even, prompts, 0), 0.3, atol=1e-9)


def test_responses_follow_the_rates_of_the_loaded_version() -> None:
    prompts = _prompts(150)
    config = SimulatedConfig(drift_per_version=0.5)
    engine = SimulatedEngine(config)
    task = SimulatedTask()
    for version in (0, 4):
        engine.load_weights(version, ObjectStorePayload(arrays={}))
        groups = engine.generate(_request(prompts, 64))
        verdicts = [[task.verify(p, r.text)[1] for r in g.responses] for p, g in zip(prompts, groups, strict=True)]
        observed = np.mean(np.array(verdicts) == RolloutStatus.RIGHT, axis=1)
        rates = success_rates(prompts, config, version)
        z = (observed - rates) / np.sqrt(rates * (1 - rates) / 64)
        assert abs(z.mean()) < 0.2
        assert 0.85 < z.std() < 1.15


def test_draws_are_keyed() -> None:
    prompts = _prompts(20)
    engine = SimulatedEngine(SimulatedConfig(response_tokens=5))

    def texts(batch: list[Prompt], step: int = 1) -> list[list[str]]:
        return [[r.text for r in g.responses] for g in engine.generate(_request(batch, 8, step))]

    assert texts(prompts) == texts(prompts[:7]) + texts(prompts[7:])
    assert texts(prompts) != texts(prompts, step=2)
    assert len(engine.generate(_request(prompts, 1))[0].responses[0].tokens) == 5
