"""A text prior from outcomes that somebody has paid for already: tables of success counts, or run folders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gps_ray.base.errors import DataError, one_line
from gps_ray.base.tables import OUTCOMES, outcomes_from_table
from gps_ray.config import FeaturesConfig
from gps_ray.predictor.prompt_features import embed_texts
from gps_ray.predictor.prompt_states import stored_states
from gps_ray.predictor.recorded import RecordedOutcomes, added_up, read_recorded
from gps_ray.predictor.text_prior import TextPrior, fit_text_prior
from gps_ray.run.folder import RunFolder
from gps_ray.run.outcomes import read_outcomes

__all__ = ["prior_from_past", "read_all", "read_past"]


def prior_from_past(sources: Sequence[Path], features: FeaturesConfig) -> TextPrior:
    """Fit on all ``sources`` together (``read_past``). Raises DataError."""
    past = read_all(sources)
    embeddings, states = embed_texts(past.prompts, features), stored_states(features, past.prompts)
    return fit_text_prior(past.prompts, embeddings, past.num_right, past.num_tried, states)


def read_all(sources: Sequence[Path]) -> RecordedOutcomes:
    """All ``sources`` together, counts of the same prompt added up (``read_past``)."""
    return added_up([row for source in sources for row in _rows(read_past(source))])


def read_past(source: Path) -> RecordedOutcomes:
    """A Parquet file of prompt, successes, rollouts, or the folder of a run: all groups of its outcome files, added up
    per prompt over the whole run. Failed rollouts count as not made. Raises DataError."""
    if not source.is_dir():
        return read_recorded(source)
    folder = RunFolder(source)
    try:
        prompts = pq.read_table(source / "prompts.parquet", columns=["prompt_id", "text"])
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{source}: expected a run folder with prompts.parquet, or a Parquet file ({one_line(error)})"
        ) from error
    text_of = dict(zip(prompts["prompt_id"].to_pylist(), prompts["text"].to_pylist(), strict=True))
    outcomes = outcomes_from_table(read_outcomes(folder.outcomes).select(OUTCOMES.names).combine_chunks())
    unknown = [outcome.prompt_id for outcome in outcomes if outcome.prompt_id not in text_of]
    if unknown:
        raise DataError(f"{source}: prompts.parquet lacks prompt {unknown[0]}, which stands in the outcome files")
    return added_up((text_of[o.prompt_id], o.num_right, o.num_tried) for o in outcomes if o.num_tried)


def _rows(past: RecordedOutcomes) -> Iterable[tuple[str, int, int]]:
    return zip(past.prompts, past.num_right.tolist(), past.num_tried.tolist(), strict=True)
