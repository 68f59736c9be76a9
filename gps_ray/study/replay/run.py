"""The whole replay: read, pre-train, run every selector and seed, write the figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from gps_ray.base.errors import ConfigError
from gps_ray.base.json_files import write_json
from gps_ray.base.types import FloatArray
from gps_ray.config import SelectionConfig
from gps_ray.predictor.interface import PromptTable
from gps_ray.predictor.prompt_features import embed_texts
from gps_ray.predictor.prompt_states import load_states, stored_states
from gps_ray.predictor.recorded import RecordedSeries, read_recorded, read_series, without_overlap
from gps_ray.predictor.text_prior import fit_text_prior
from gps_ray.selection.acquisition import NEEDS_LENGTHS
from gps_ray.selection.registry import resolve_selection
from gps_ray.study.over_seeds import over_seeds
from gps_ray.study.replay.page import write_page
from gps_ray.study.replay.protocol import batch_size, replay
from gps_ray.study.replay.static import static_data, static_figures
from gps_ray.study.replay.summary import Summary, as_json, ceilings_over_time, summarise

__all__ = ["ReplayRequest", "run_replay"]

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRequest:
    """What to replay: a series over time (``outcomes``), static success rates (``static``), or both.

    ``selection`` holds the settings that all ``selectors`` share; each selector adds its own preset.
    """

    outcomes: Path | None
    selectors: tuple[str, ...]
    batch_fraction: float
    num_seeds: int
    out: Path
    selection: SelectionConfig
    reveal: Literal["selected", "random"] = "selected"
    prior: Path | None = None
    static: Path | None = None
    labels: tuple[int, ...] = ()
    test: Path | None = None


def run_replay(request: ReplayRequest, say: Say) -> Summary:
    """Run it and write ``replay.json`` (and ``replay.html`` for a series) to ``request.out``.

    Everything is read and checked before anything runs. Raises ConfigError and DataError.
    """
    _check(request)
    series = None if request.outcomes is None else read_series(request.outcomes)
    recorded = None if request.static is None else read_recorded(request.static)
    test = None if request.test is None else read_recorded(request.test)
    summary: Summary = {name: {} for name in request.selectors}
    if series is not None:
        for name, figures in _over_time(request, series, say).items():
            summary[name] |= figures
    if recorded is not None:
        data = static_data(recorded, test, request.selection.features)
        say(f"static: {len(data.learn.prompts)} prompts to learn from, {len(data.test.prompts)} held out")
        for name in request.selectors:
            for num_labels in request.labels:
                seeds = range(request.num_seeds)
                config = _config(request, name)
                found = [static_figures(data, num_labels, config, seed) for seed in seeds]
                for figure in dict.fromkeys(figure for figures in found for figure in figures):
                    values = [figures[figure] for figures in found]
                    summary[name][f"static_{figure}_{num_labels}"] = over_seeds(values)
                say(f"static: {name} with {min(num_labels, len(data.learn.prompts))} labels done")
    write_json(request.out / "replay.json", as_json(summary))
    return summary


def _check(request: ReplayRequest) -> None:
    if request.outcomes is None and request.static is None:
        raise ConfigError("expected --outcomes FILE, --static FILE or both, got neither")
    if not request.selectors or len(set(request.selectors)) < len(request.selectors):
        raise ConfigError(f"--selectors: expected different names, got {','.join(request.selectors)!r}")
    if request.num_seeds < 1 or any(num_labels < 1 for num_labels in request.labels):
        raise ConfigError("--seeds and --labels: expected numbers of at least 1")
    if request.static is not None and not request.labels:
        raise ConfigError("--static: needs --labels, for instance --labels 512,2048,8192")
    if request.static is None and (request.labels or request.test is not None):
        raise ConfigError("--labels and --test: belong to --static FILE, which is missing")
    if request.outcomes is None and request.prior is not None:
        raise ConfigError("--prior: belongs to --outcomes FILE, which is missing")
    for name in request.selectors:
        acquisition = resolve_selection(_config(request, name)).acquisition
        if acquisition in NEEDS_LENGTHS:
            raise ConfigError(
                f"selection.acquisition: {acquisition} needs response lengths, which recorded outcomes do not have; "
                "leave acquisition=... out"
            )


def _config(request: ReplayRequest, selector: str, num_prompts: int | None = None) -> SelectionConfig:
    """The shared settings under another selector's name; what nobody set is left to that selector's preset."""
    tree = request.selection.model_dump(exclude_unset=True) | {"selector": selector}
    return SelectionConfig.model_validate(tree if num_prompts is None else tree | {"num_prompts": num_prompts})


def _over_time(request: ReplayRequest, series: RecordedSeries, say: Say) -> Summary:
    num_prompts = batch_size(series, request.batch_fraction)
    table = PromptTable(
        prompt_ids=tuple(f"row-{row}" for row in range(len(series.prompts))),
        texts=series.prompts,
        embeddings=embed_texts(series.prompts, request.selection.features),
        num_pool=len(series.prompts),
        states=stored_states(request.selection.features, series.prompts),
    )
    if request.prior is not None:
        request = _pre_trained(request, series, say)
    runs = []
    for name in request.selectors:
        config = _config(request, name, num_prompts)
        for seed in range(request.num_seeds):
            runs.append(replay(series, table, config, seed, request.reveal))
        say(f"{name}: {request.num_seeds} seeds done")
    ceiling = ceilings_over_time(series)
    summary = summarise(runs, ceiling)
    num_points = series.num_right.shape[1]
    subtitle = (
        f"{len(series.prompts)} prompts, {num_points} points in time, {num_prompts} prompts "
        f"({request.batch_fraction:.1%}) per point, {request.num_seeds} seeds"
    )
    notes = ["picks replaced by random ones"] if request.reveal == "random" else []
    notes += ["text prior pre-trained on other outcomes"] if request.prior is not None else []
    out, chooses = request.out / "replay.html", request.reveal == "selected"
    write_page(runs, summary, ceiling, subtitle, notes, out, shows_choice=chooses)
    return summary


def _pre_trained(request: ReplayRequest, series: RecordedSeries, say: Say) -> ReplayRequest:
    """Fit the text prior on ``request.prior`` without the prompts of the series, and point the selectors to it."""
    assert request.prior is not None
    recorded = read_recorded(request.prior)
    kept = without_overlap(recorded, series.prompts)
    embeddings = embed_texts(kept.prompts, request.selection.features)
    states, note = _states_of_prior(request.selection.features.prompt_states, kept.prompts)
    prior = fit_text_prior(kept.prompts, embeddings, kept.num_right, kept.num_tried, states)
    directory = request.out / "text_prior"
    prior.save(directory)
    num_removed = len(recorded.prompts) - len(kept.prompts)
    say(
        f"text prior: {len(kept.prompts)} prompts ({num_removed} overlapping ones removed), held-out Spearman "
        f"{prior.report.heldout_spearman:.3f}{note}"
    )
    fused = request.selection.fused.model_copy(update={"text_prior": directory})
    return replace(request, selection=request.selection.model_copy(update={"fused": fused}))


def _states_of_prior(file: Path | None, prompts: Sequence[str]) -> tuple[FloatArray | None, str]:
    """The states of the prior's prompts, where the file holds all of them, and what to say of it."""
    if file is None:
        return None, ""
    stored = load_states(file)
    num_missing = len(stored.missing(prompts))
    if num_missing:
        return None, f"; fitted without prompt states: {file} lacks {num_missing} of its {len(prompts)} prompts"
    return stored.take(prompts), ""
