"""The page of one run: whole, self-contained, safe against what a policy writes, and the same every time."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gps_ray.base.errors import CheckpointError, DataError
from gps_ray.run.metrics import read_metrics
from gps_ray.study.report import write_report
from gps_ray.study.report.render import visible
from tests.loop.report.synthetic_run import LEVELS, Synthetic, write_synthetic_run

OWN = ("#", "data:image/png;base64,")  # a place in the page, or bytes that are part of it
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Collects tags, ids, references and text; fails on tags that do not close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"an event handler: {name}"
            if name == "id":
                self.ids.append(value or "")
            elif name in ("src", "href", "xlink:href", "data"):
                self.references.append(value or "")
            if name != "d":
                self.references += re.findall(r"url\(([^)]*)\)", value or "")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def html(gps_run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(gps_run, tmp_path_factory.mktemp("report") / "page.html").read_text(encoding="utf-8")


def test_the_page_needs_nothing_from_outside(html: str) -> None:
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "embed", "img", "form"} & set(page.tags)
    assert [r for r in page.references if not r.startswith(OWN)] == []
    assert "@import" not in html
    assert {reference[1:] for reference in page.references if reference[0] == "#"} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_hostile_text_stays_text(html: str) -> None:
    assert "<script" not in html
    assert "</td><script>alert(1)</script>\\x1b[31m\\u202egnp\\x00 $x^2$ \\ud800" in Page(html).text
    assert not set(html) & {"\x1b", "\x00", "\u202e"}


def test_the_headline_is_what_the_run_measured(html: str, gps_run: Path) -> None:
    text = Page(html).text
    last = read_metrics(gps_run / "metrics.jsonl")[-1]
    assert f"{100 * last['val/pass@1']:.1f} %" in text
    assert f"95 % interval {100 * last['val/pass@1/low']:.1f} – {100 * last['val/pass@1/high']:.1f}" in text
    assert f"{12 * 16 * 4:,}" in text  # steps x prompts x rollouts
    assert f"{last['predictor/pool_probe_spearman']:.2f}" in text
    for part in ("selector gps", "12 of 20 steps", "not finished", *LEVELS, "num_pool_prompts: 120"):
        assert part in text


def test_what_the_guard_saw_is_a_headline(bare_run: Callable[..., Path]) -> None:
    fallen, share = "selection/guard_is_fallen", "selection/guard_share"
    rows = [{"step": step, fallen: value, share: 0.25} for step, value in enumerate([0, 1, 1, 0, 1], start=1)]
    text = Page(write_report(bare_run("a", rows)).read_text()).text
    assert "fell at step 2, 5; 60% of the steps below" in text
    assert "guard" not in Page(write_report(bare_run("b", [{"step": 1}])).read_text()).text


def test_rollouts_saved_are_named_an_estimate(bare_run: Callable[..., Path]) -> None:
    saved = "selection/rollouts_saved_estimate"
    more = Page(write_report(bare_run("a", [{"step": 1, saved: 1234.4}])).read_text()).text
    assert "uniform: 1,234 more for as many useful groups (estimate)" in more
    fewer = Page(write_report(bare_run("b", [{"step": 1, saved: -20.0}])).read_text()).text
    assert "uniform: 20 fewer for as many useful groups (estimate)" in fewer
    assert "(estimate)" not in write_report(bare_run("c", [{"step": 1, saved: 0.0}])).read_text()


def test_every_section_has_its_figures(html: str) -> None:
    labels = re.findall(r'<svg role="img" aria-label="([^"]*)"', html)
    for start, num in {
        "pass@1 against ": 5,
        "share of useful groups against ": 5,
        "mean reward over steps": 1,
        "response length, tokens over steps": 1,
        "share cut off at the limit of tokens over steps": 1,
        "realised success rate of the pool": 1,
        "predicted success rate of the pool": 1,
        "success rate of groups by level": 1,
        "share of groups by level": 1,
        "pass@1 by level": 1,
        "outcome of the groups": 1,
        "calibration on the ": 2,
        "Spearman on the probe sets": 1,
        "swap test": 1,
        "CPU-seconds by phase": 1,
        "wall seconds per step": 1,
        "unique prompts": 1,
        "number of prompts by how often": 1,
    }.items():
        assert sum(label.startswith(start) for label in labels) == num, start
    assert "Nothing to show" not in html


def test_levels_that_are_left_out_are_counted(bare_run: Callable[..., Path]) -> None:
    levels = {f"val/pass@1/level/level-{i:02d}": 0.5 for i in range(17)}
    run = bare_run("run", [{"step": i, "val/pass@1": 0.5, **levels} for i in range(2)])
    assert "pass@1 by level (12 of 17 levels)" in Page(write_report(run).read_text()).text


def test_the_same_run_gives_the_same_bytes(bare_run: Callable[..., Path]) -> None:
    run = bare_run("run", [{"step": i, "val/pass@1": i / 3, "cost/num_rollouts": i} for i in range(3)])
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


def test_uniform_after_one_step_has_no_predictor_and_still_a_page(tmp_path: Path) -> None:
    spec = Synthetic(selector="uniform", num_steps=1, num_planned=1, num_pool=40, num_prompts=8, group_size=4)
    run = write_synthetic_run(tmp_path / "uniform", spec)
    out = write_report(run)
    assert out == run / "report.html"
    text = Page(out.read_text()).text
    assert "This selector predicts nothing" in text
    assert "held-out probe -" in text
    assert "not finished" not in text


def test_a_run_that_was_killed_while_writing(bare_run: Callable[..., Path]) -> None:
    run = bare_run("killed", [{"step": 0, "val/pass@1": 0.2}])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1, "rew')
    (run / "outcomes").mkdir()
    (run / "outcomes" / "step_000001.parquet").write_bytes(b"PAR1 cut off")
    broken = ('{"step": 1, "prompt_id": "a"', "[" * 200_000, '{"step": 1e400}')
    (run / "rollouts.jsonl").write_text("\n".join(broken))
    text = Page(write_report(run).read_text()).text
    for note in (
        "1 files of outcomes/ are lost, cut off or damaged (what can be read of them is shown), the first step_000001",
        "3 lines of rollouts.jsonl are not readable",
        "prompts.parquet is absent or unreadable",
        "0 of 40 steps",
        "20.0 %",
    ):
        assert note in text


def test_a_run_that_has_only_its_config(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("run: {num_steps: 3}\n")
    text = Page(write_report(tmp_path).read_text()).text
    assert "No evaluation yet." in text
    assert "no metrics.jsonl yet" in text


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a run folder .* give the folder that run\.directory names"):
        write_report(tmp_path)


@pytest.mark.parametrize("name", ["rollouts.jsonl", "first_prompt.json", "outcomes/00000001.arrows"])
def test_a_pipe_in_a_files_place_is_named_and_not_waited_for(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.yaml").write_text("run: {num_steps: 3}\n")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(CheckpointError, match=f"{name}: expected a plain file"):
        write_report(tmp_path)


def test_a_place_that_cannot_be_written_is_named(bare_run: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write the report"):
        write_report(bare_run("run", [{"step": 0}]), tmp_path / "file" / "report.html")


def test_visible_cuts_and_says_so() -> None:
    assert visible("a\tb\n" + "c" * 10, 8) == "a\tb\ncccc … (6 more characters)"
    assert visible("π 中 é") == "π 中 é"


def test_what_the_model_reads_is_shown_as_text(bare_run: Callable[..., Path]) -> None:
    run = bare_run("run", [{"step": 0}])
    assert "What the model reads" not in write_report(run).read_text()
    shown = {"text": "<|im_start|>user\n<script>1 + 2</script>", "num_tokens": 7}
    (run / "first_prompt.json").write_text(json.dumps(shown))
    html = write_report(run).read_text()
    assert "&lt;|im_start|&gt;user\n&lt;script&gt;1 + 2" in html
    assert "7 tokens" in html
    assert "<script" not in html
