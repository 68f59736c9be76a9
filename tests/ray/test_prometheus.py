"""A real run on a real Ray under a real Prometheus: every query of the dashboard is answered, the alerts are loaded,
two runs of one name stay apart, and Ray's Metrics page finds what docs/metrics.md says it finds."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from gps_ray.run.metrics import read_metrics
from tests.processes import ROOT, SMALL_RUN, Head, end, free_port, job_environment, ray_head, run_job, wait_for
from tests.unit.deploy.test_monitoring import DASHBOARD

pytestmark = [pytest.mark.ray, pytest.mark.slow]

# Random slots enough for the estimate, a reference for its KL, a probe at the end.
RUN = (
    "run.num_steps=8",
    "evaluation.every_steps=8",
    "selection.selector=gps_fused",
    "selection.random_share=0.5",
    "learning.kl_coefficient=0.01",
)


@contextlib.contextmanager
def prometheus(directory: Path, port: int, ray_directory: Path) -> Iterator[str]:
    """deploy/prometheus as it is, but for the place of Ray's folder and a test's patience. Its address."""
    binary = shutil.which("prometheus")
    assert binary is not None
    shutil.copytree(ROOT / "deploy" / "prometheus", directory / "config")
    config = directory / "config" / "prometheus.yml"
    text = config.read_text().replace("/tmp/ray/", f"{ray_directory / 'ray'}/")
    config.write_text(text.replace(": 10s", ": 1s"))
    command = [binary, f"--config.file={config}", f"--web.listen-address=127.0.0.1:{port}"]
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--storage.tsdb.path={directory / 'tsdb'}"], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        end(process)


def _ask(address: str, path: str, **query: object) -> Any:
    answer = requests.get(f"{address}/api/v1/{path}", params={k: str(v) for k, v in query.items()}, timeout=30)
    body = answer.json()
    assert body["status"] == "success", body
    return body["data"]


def _seen(address: str, query: str, since: float) -> list[dict[str, Any]]:
    """The series that the query had at any moment since then."""
    found: list[dict[str, Any]] = _ask(address, "query_range", query=query, start=since, end=time.time(), step=1)[
        "result"
    ]
    return [series for series in found if any(value != "NaN" for _, value in series["values"])]


def _queries() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [
        target["expr"].replace("$run_id", ".*").replace("$run", ".*")
        for panel in panels
        for target in panel.get("targets", [])
    ]


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[Head, str, Path]]:
    """A head started as docs/metrics.md says, and the Prometheus that it is told of."""
    if shutil.which("prometheus") is None:
        pytest.skip("no prometheus on this machine (make test-all installs Debian's where it may)")
    port = free_port()
    dashboards = tmp_path / "dashboards"
    dashboards.mkdir()
    shutil.copy(DASHBOARD, dashboards)
    environment = job_environment() | {
        "RAY_PROMETHEUS_HOST": f"http://127.0.0.1:{port}",
        "RAY_METRICS_GRAFANA_DASHBOARD_OUTPUT_DIR": str(dashboards),
    }
    with (
        tempfile.TemporaryDirectory(prefix="gps", ignore_cleanup_errors=True) as short,
        ray_head(Path(short), environment=environment) as head,
        prometheus(tmp_path, port, Path(short)) as address,
    ):
        yield head, address, dashboards


def test_every_query_is_answered_by_a_real_run(watched: tuple[Head, str, Path], tmp_path: Path) -> None:
    head, address, dashboards = watched
    began = time.time()
    for place in ("a", "b"):
        arguments = (*SMALL_RUN, *RUN, f"run.directory={tmp_path / place / 'same_name'}")
        ended = run_job("train", *arguments, head=head)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    ids = {(tmp_path / place / "same_name" / "run_id").read_text().strip() for place in ("a", "b")}
    assert len(ids) == 2
    for query in _queries():
        series = wait_for(f"an answer to {query}", lambda query=query: _seen(address, query, began), 60)
        assert {entry["metric"]["run"] for entry in series} == {"same_name"}
        wait_for("both runs", lambda query=query: {e["metric"]["run_id"] for e in _seen(address, query, began)} == ids)
    _is_what_the_run_measured(address, began, tmp_path / "a" / "same_name")
    rules = _ask(address, "rules")["groups"]
    assert [rule["health"] for group in rules for rule in group["rules"]] == ["ok"] * 4
    assert head.get("/api/prometheus_health")["result"] is True
    # Ray wrote its own dashboards beside ours, and points Grafana at that folder.
    assert {DASHBOARD.name, "default_grafana_dashboard.json"} <= {path.name for path in dashboards.iterdir()}


def _is_what_the_run_measured(address: str, since: float, run: Path) -> None:
    last = read_metrics(run / "metrics.jsonl")[-1]
    run_id = (run / "run_id").read_text().strip()
    for name, metric in (
        ("step", "step"),
        ("rollouts_saved_estimate", "selection/rollouts_saved_estimate"),
        ("loss", "train/loss"),
        ("reference_kl", "train/reference_kl"),
        ("pool_probe_spearman", "predictor/pool_probe_spearman"),
    ):
        (series,) = _seen(address, f'max by (run_id) (ray_gps_ray_{name}{{run_id="{run_id}"}})', since)
        assert float(series["values"][-1][1]) == pytest.approx(last[metric]), name
    workers = _seen(address, f'max by (worker) (ray_gps_ray_worker_tokens_per_second{{run_id="{run_id}"}})', since)
    assert {entry["metric"]["worker"] for entry in workers} == {"0", "1"}
    assert all(float(entry["values"][-1][1]) > 0 for entry in workers)
