"""The page of ``jobs.allocate``: what the figures say, with several seeds and with one."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from gps_ray.allocation.comparison import ALLOCATORS, AllocationSettings, Comparison, summarise
from gps_ray.allocation.simulation import AllocationResult
from gps_ray.study.allocation_page import write_allocation_page
from tests.loop.report.test_run_report import OWN, Page

BUDGETS = AllocationSettings(budgets=(2, 4)).budgets


def _comparison(seed: int) -> Comparison:
    results = {
        budget: {
            name: AllocationResult(pass_rate=0.5 + 0.01 * i + 0.02 * seed, points_gained=1.0 * i, samples_saved=0.1 * i)
            for i, name in enumerate(ALLOCATORS)
        }
        for budget in BUDGETS
    }
    return Comparison(spearman=0.4 + 0.2 * seed, num_prompts=100, results=results)


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_every_allocator_is_in_table_and_curves(tmp_path: Path, num_seeds: int) -> None:
    summary = summarise([_comparison(seed) for seed in range(num_seeds)])
    html = write_allocation_page(summary, "<file>.parquet", tmp_path / "out" / "allocate.html").read_text()
    page = Page(html)
    assert [reference for reference in page.references if not reference.startswith(OWN)] == []
    for name in ALLOCATORS:
        assert page.text.count(name) >= 2 * len(BUDGETS)
    for part in ("<file>.parquet", "100 prompts", f"Spearman {np.mean([0.4, 0.6][:num_seeds]):.2f}"):
        assert part in page.text
    assert ("[" in page.text) == (num_seeds > 1)
    assert ("One seed, which bounds nothing" in page.text) == (num_seeds == 1)
    assert "?" not in page.text
    labels = re.findall(r'<svg role="img" aria-label="([^"]*)"', html)
    assert [label.split(" against")[0] for label in labels] == [
        "prompts solved",
        "points over equal allocation",
        "samples saved, %",
    ]
