"""Dashboard and alerts against what a run exports, and against the tools that read them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from gps_ray.run.exported import GAUGES, LAST_STEP, PHASE_SECONDS, STEP_SECONDS, WORKER_GAUGES, exported_table
from gps_ray.run.metrics import METRICS, STEP

ROOT = Path(__file__).parents[3]
DASHBOARD = ROOT / "deploy" / "grafana" / "gps_ray_dashboard.json"
ALERTS = ROOT / "deploy" / "prometheus" / "gps_ray_alerts.yml"
EXPORTED = {
    *GAUGES,
    *WORKER_GAUGES,
    PHASE_SECONDS[0],
    LAST_STEP[0],
    f"{STEP_SECONDS[0]}_sum",
    f"{STEP_SECONDS[0]}_count",
}


def _dashboard() -> dict[str, Any]:
    dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return dashboard


def _queries(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]


def _named(text: str) -> set[str]:
    return {name.removeprefix("ray_") for name in re.findall(r"\bray_gps_ray_\w+", text)}


def test_the_dashboard_draws_all_that_is_exported_and_nothing_else() -> None:
    dashboard = _dashboard()
    assert _named(" ".join(_queries(dashboard))) == EXPORTED
    variables = [variable["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"]
    assert _named(json.dumps(variables)) <= EXPORTED
    for query in _queries(dashboard):  # runs of one name are apart in every panel
        assert "run_id" in query
        assert query.count('{run=~"$run", run_id=~"$run_id"}') == len(re.findall(r"ray_gps_ray_", query))


def test_alerts_ask_for_what_is_exported() -> None:
    assert _named(ALERTS.read_text()) <= EXPORTED


def test_what_is_exported_exists_in_a_runs_metrics() -> None:
    families = [name[:-1] for name in METRICS if name.endswith("*")]
    for metric, _ in GAUGES.values():
        assert metric == STEP or metric in METRICS or any(metric.startswith(family) for family in families)


def test_the_docs_list_what_is_exported() -> None:
    assert exported_table() in (ROOT / "docs" / "metrics.md").read_text(), "write exported_table() into docs/metrics.md"


def test_panels_stand_apart() -> None:
    panels = _dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)


def test_an_estimate_is_called_one() -> None:
    (panel,) = [p for p in _dashboard()["panels"] if "rollouts_saved" in json.dumps(p.get("targets", []))]
    assert "estimate" in panel["title"]
    assert panel["description"].startswith("An estimate")


def test_grafanas_own_schema_takes_the_dashboard_whole() -> None:
    models = pytest.importorskip(
        "grafana_foundation_sdk.models.dashboard", reason="the schema: pip install grafana-foundation-sdk"
    )
    from grafana_foundation_sdk.cog.encoder import JSONEncoder  # type: ignore[import-not-found]
    from grafana_foundation_sdk.cog.plugins import register_default_plugins  # type: ignore[import-not-found]

    register_default_plugins()
    dashboard = _dashboard()
    taken = json.loads(JSONEncoder().encode(models.Dashboard.from_json(dashboard)))
    assert list(_lost(dashboard, taken)) == []


def _lost(ours: Any, taken: Any, path: str = "") -> Any:
    """Places of ours that Grafana's model dropped or changed; empty values may go."""
    if isinstance(ours, dict):
        for key, value in ours.items():
            if key in taken:
                yield from _lost(value, taken[key], f"{path}/{key}")
            elif value not in ("", [], {}, None, False):
                yield f"{path}/{key}"
    elif isinstance(ours, list):
        if len(ours) != len(taken):
            yield path
        for i, (one, other) in enumerate(zip(ours, taken, strict=False)):
            yield from _lost(one, other, f"{path}[{i}]")
    elif ours != taken:
        yield path


def test_each_alert_fires_when_it_should_and_not_before(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool on this machine (apt-get install prometheus)")
    cases = tmp_path / "alerts.yml"
    cases.write_text((Path(__file__).parent / "alerts.yml").read_text().replace("RULES", str(ALERTS)))
    ended = subprocess.run([promtool, "test", "rules", str(cases)], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    checked = subprocess.run([promtool, "check", "rules", str(ALERTS)], capture_output=True, text=True, timeout=60)
    assert "4 rules found" in checked.stdout
