"""How good are policy and predictor after a step? Measured beside the training, charged apart."""

from __future__ import annotations

from collections.abc import Sequence

from gps_ray.base.types import Prompt
from gps_ray.config import TrainConfig
from gps_ray.loop.evaluation import Counts, probe_metrics, suite_metrics
from gps_ray.loop.ledger import Ledger
from gps_ray.loop.ports import SelectorPort
from gps_ray.loop.sampling import Sampler
from gps_ray.loop.suites import Suite, extra_suites, main_suite
from gps_ray.run.folder import RunFolder
from gps_ray.tasks.dataset import DataSets

__all__ = ["Evaluator"]


class Evaluator:
    """The evaluation set, the suites beside it, and the two probe sets where they are due."""

    def __init__(
        self,
        config: TrainConfig,
        data: DataSets,
        sampler: Sampler,
        selector: SelectorPort,
        folder: RunFolder,
        ledger: Ledger,
    ) -> None:
        self._config = config
        self._data = data
        self._sampler = sampler
        self._selector = selector
        self._folder = folder
        self._ledger = ledger
        self._suites = (main_suite(config, data.evaluation), *extra_suites(config, data.suites))

    async def evaluate(self, step: int, with_probes: bool) -> dict[str, float]:
        """Metrics of policy version ``step``, which the pool must be serving."""
        data = self._data
        metrics: dict[str, float] = {}
        for suite in self._suites:
            metrics |= suite_metrics(suite, await self._measure_suite(suite, step))
        if with_probes:
            for name, prompts in (("pool_probe", data.pool_probe), ("heldout_probe", data.heldout_probe)):
                metrics |= await self._probe(name, prompts, step)
        return metrics

    async def _measure_suite(self, suite: Suite, step: int) -> Counts:
        ids = tuple(prompt.prompt_id for prompt in suite.prompts)
        return await self._sampler.counts(
            suite.stream,
            "evaluation",
            ids,
            suite.rollouts_per_prompt,
            suite.sampling,
            step,
            suite=suite.key,
            with_answers=True,
        )

    async def _probe(self, name: str, prompts: Sequence[Prompt], step: int) -> dict[str, float]:
        if not prompts:
            return {}
        # Predicted first, from the state that the next selection is made with, then measured.
        posterior = await self._selector.predict([p.prompt_id for p in prompts])
        # Sampled as rollouts are: that is what was predicted.
        config = self._config
        ids = tuple(prompt.prompt_id for prompt in prompts)
        num_rollouts = config.evaluation.probe_rollouts
        seen = await self._sampler.counts(name, "probe", ids, num_rollouts, config.rollout_sampling, step)
        self._folder.write_probe(step, name, prompts, posterior, seen.num_right, seen.num_tried)
        if posterior is None:
            return {}
        self._ledger.charge_cpu("probe", posterior.cpu_s)
        return probe_metrics(name, posterior, seen.num_right, seen.num_tried, config.rollout.group_size)
