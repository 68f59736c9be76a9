"""The live page over real HTTP: what it shows, what it refuses, and that it follows the run without touching it."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from gps_ray.base.errors import ConfigError, DataError, ResourceError
from gps_ray.integrations.commands.watch import main
from gps_ray.run.folder import RunFolder
from gps_ray.run.lease import Driver, Lease
from gps_ray.run.status import StatusFile, WorkerStatus
from gps_ray.study.watch import WatchServer
from gps_ray.study.watch.words import state_of
from tests.loop.report.conftest import SMALL
from tests.loop.report.synthetic_run import write_synthetic_run
from tests.loop.report.test_run_report import Page


@dataclass
class Reader:
    """A client of the page."""

    server: WatchServer

    def ask(self, path: str = "", method: str = "GET", host: str = "127.0.0.1") -> http.client.HTTPResponse:
        address = urlsplit(self.server.address)
        connection = http.client.HTTPConnection(address.hostname or "", address.port or 0, timeout=60)
        full = path if path.startswith("/") else address.path + path
        connection.request(method, full, headers={"Host": f"{host}:{address.port}"})
        return connection.getresponse()

    def html(self, **query: object) -> str:
        answer = self.ask("?" + urlencode(query))
        assert answer.status == 200
        return answer.read().decode()

    def parts(self, **query: object) -> dict[str, Any]:
        answer = self.ask("parts?" + urlencode(query))
        assert answer.status == 200
        parts: dict[str, Any] = json.loads(answer.read())
        return parts


@contextmanager
def watching(root: Path) -> Iterator[Reader]:
    with WatchServer(root, 0, 1.0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Reader(server)
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_run(tmp_path_factory.mktemp("watch") / "gps", SMALL)


@pytest.fixture(scope="module")
def reader(run: Path) -> Iterator[Reader]:
    with watching(run) as found:
        yield found


def test_the_page_is_whole_before_its_script_runs(reader: Reader) -> None:
    html = reader.html()
    page = Page(html)
    assert [r for r in page.references if not r.startswith(("#", "data:"))] == []
    assert {reference[1:] for reference in page.references if reference[0] == "#"} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    for curve in ("pass@1 against step", "share of useful groups against step", "mean reward over steps"):
        assert f'aria-label="{curve}' in html
    for curve in ("response length", "share cut off", "mean success rate of the batch", "calibration", "realised"):
        assert f'aria-label="{curve}' in html
    for part in ("step 12: 16 of 16 prompts shown", "random slot", "score: its own record and its text", "12 of 20"):
        assert part in page.text


def test_its_own_script_is_all_that_may_run(reader: Reader) -> None:
    answer = reader.ask()
    policy, html = answer.headers["Content-Security-Policy"], answer.read().decode()
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe-eval" not in policy
    # What a policy wrote stays text: its tags are escaped, its control characters are escapes.
    assert "&lt;script&gt;alert(1)" in html
    assert not set(html) & {"\x1b", "\x00", "\u202e"}


def test_only_loopback_only_reading_only_with_the_address(reader: Reader) -> None:
    assert reader.server.server_address[0] == "127.0.0.1"
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"):
        assert reader.ask(method=method).status == 405
    for path in ("/", "/parts", "/x/", reader.server.path[:-2] + "/", reader.server.path + "metrics.jsonl"):
        assert reader.ask(path).status == 404
    assert reader.ask(reader.server.path + "../../etc/passwd").status == 404
    assert reader.ask(host="evil.example").status == 403
    assert reader.ask(host="localhost").status == 200


def test_prompts_and_rollouts_are_found(reader: Reader) -> None:
    every = reader.parts()["parts"]
    assert "36 of 36 kept rollouts match" in every["responses"]
    right = reader.parts(verdict="right")["parts"]["responses"]
    assert right.count("<tr><td") == every["responses"].count('<td class="status right">')
    assert "status wrong" not in right
    assert "12 of 36 kept rollouts match" in reader.parts(step=11)["parts"]["responses"]
    hostile = reader.parts(text="ALERT(1)")["parts"]["responses"]
    assert "3 of 36 kept rollouts match" in hostile
    assert "None of the 36 rollouts that were kept matches" in reader.parts(text="no such text")["parts"]["responses"]
    batch = reader.parts(step=3)["parts"]["batch"]
    assert "step 3: 16 of 16 prompts shown" in batch
    random = reader.parts(step=3, text="random slot")["parts"]["batch"]
    assert "step 3: 4 of 16 prompts shown" in random
    assert "No groups of step 999" in reader.parts(step=999)["parts"]["batch"]
    for nonsense in ({"step": "-1"}, {"step": "1e3"}, {"verdict": "<b>"}, {"step": "9" * 50}):
        assert reader.parts(**nonsense)["parts"]["batch"] == every["batch"]


def test_it_follows_the_run(tmp_path: Path) -> None:
    root = write_synthetic_run(tmp_path / "run", replace(SMALL, num_steps=2))
    with watching(root) as reader:
        first = reader.parts()
        assert set(reader.parts(have=first["stamp"])["parts"]) == {"now"}
        assert first["title"] == "2/20 run"
        write_synthetic_run(tmp_path / "more", replace(SMALL, num_steps=3))
        for name in ("metrics.jsonl", "outcomes/from_step_00000000.arrows"):
            shutil.copy(tmp_path / "more" / name, root / name)
        reader.server.page.pause = 0.0
        news = reader.parts(have=first["stamp"])
        assert news["title"] == "3/20 run"
        assert "step 3: 16 of 16 prompts shown" in news["parts"]["batch"]
        assert news["parts"]["curves"] != first["parts"]["curves"]


def test_it_says_how_the_run_is(tmp_path: Path) -> None:
    root = tmp_path / "run"
    root.mkdir()
    (root / "config.yaml").write_text("run: {num_steps: 20}\n")
    folder = RunFolder(root)
    for step in (1, 2):
        folder.metrics.append({"step": step})
    worker = WorkerStatus(name="rollout-worker-0", state="healthy", num_restarts=0, num_in_flight=1, tokens_per_s=1500)
    with watching(root) as reader:
        reader.server.page.pause = 0.0
        stamp = reader.parts()["stamp"]  # of the other parts, which are not asked for again

        def now() -> str:
            return Page(reader.parts(have=stamp)["parts"]["now"]).text

        assert "no driver has taken this folder yet; 2 of 20 steps" in now()
        assert "The run wrote no worker states" in now()
        lease = Lease(root, 60.0)
        lease.take()
        assert "running: 2 of 20 steps are made" in now()
        StatusFile(folder.status, lambda: [worker], 2).phase("update")
        assert "running: 2 of 20 steps are made; update for 0:0" in now()
        assert "rollout-worker-0healthy101,500" in now()
        lease.release()
        assert "ended after 2 of 20 steps; --resume goes on" in now()
        assert state_of(root, None, 20, 20, 60.0).text == "ended after 20 of 20 steps"
        this = Driver.this()
        Lease(root, 60.0, driver=Driver(this.host, this.place, 2**22 + 1, 1)).take()
        assert f"process {2**22 + 1} on {this.host} is gone" in now()
        Lease(root, 60.0, driver=Driver("elsewhere", "", 7, 1), clock=lambda: 4e9).take()
        assert "running" in now()  # of another host only silence tells
        folder.final_model.mkdir()
        (folder.final_model / "config.json").write_text("{}")
        folder.metrics.append({"step": 20})
        assert "finished: all 20 steps are made" in Page(reader.parts()["parts"]["now"]).text


def test_it_changes_nothing(run: Path, reader: Reader) -> None:
    def contents() -> dict[str, tuple[int, int]]:
        return {str(p.relative_to(run)): (p.stat().st_size, p.stat().st_mtime_ns) for p in run.rglob("*")}

    before = contents()
    reader.html(text="x", step=4)
    reader.parts()
    assert contents() == before


def test_a_young_run_and_one_that_predicts_nothing_have_a_page(tmp_path: Path) -> None:
    young = tmp_path / "young"
    young.mkdir()
    (young / "config.yaml").write_text("run: {num_steps: 3}\n")
    with watching(young) as reader:
        text = Page(reader.html()).text
        assert "No step yet." in text
        assert "no metrics.jsonl yet" in text
    uniform = write_synthetic_run(tmp_path / "uniform", replace(SMALL, selector="uniform", num_steps=1))
    with watching(uniform) as reader:
        assert "16 without a prediction: in the selector's own order" in Page(reader.html()).text


def test_wrong_input_is_one_line(run: Path, tmp_path: Path, reader: Reader) -> None:
    with pytest.raises(DataError, match="expected a run folder"):
        main([str(tmp_path)])
    taken = str(urlsplit(reader.server.address).port)
    with pytest.raises(ResourceError, match="--port: expected a free port"):
        main([str(run), "--port", taken])
    with pytest.raises(ResourceError, match="--port"):
        main([str(run), "--port", "70000"])
    with pytest.raises(ConfigError, match="--every"):
        main([str(run), "--every", "0"])


@pytest.mark.slow
def test_a_browser_runs_the_script_and_reports_no_error(reader: Reader) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=6000"]
    ended = subprocess.run(
        [browser, *options, "--dump-dom", reader.server.address + "?text=random+slot"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert re.search(r'id="refreshed"[^>]*>read at ', ended.stdout)
    assert "step 12: 4 of 16 prompts shown" in ended.stdout
    assert "CONSOLE" not in ended.stderr
