"""A run that no node can hold, and one that waits for what others hold: both say so."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray._private.state import actors
from ray.util import placement_group, remove_placement_group

from actors.unplaced import unplaced
from tests.processes import SMALL_RUN, Head, end, run_job, start_job, wait_for

pytestmark = pytest.mark.ray


@ray.remote(num_cpus=1.5)
class _Holder:
    def ready(self) -> bool:
        return True


@pytest.fixture
def one_and_a_half_cpus_taken(cluster: None) -> Iterator[None]:
    holder = _Holder.remote()
    ray.get(holder.ready.remote())
    yield
    ray.kill(holder)


def test_what_has_no_place_is_named_with_what_is_free(one_and_a_half_cpus_taken: None) -> None:
    waiting, group = (
        _Holder.options(name="somebody").remote(),
        placement_group([{"CPU": 1}] * 2, strategy="STRICT_PACK"),
    )
    try:
        line = wait_for("it to be known", lambda: unplaced({"somebody": (waiting, {"CPU": 1.5, "GPU": 0.0})}))
        assert re.fullmatch(
            r"somebody waits for 1\.5 CPU; a group of workers waits for 2 x \(1 CPU\) on one node\. "
            r"Free: [0-9.]+: 0\.5 of 2 CPU",
            line,
        )
    finally:
        ray.kill(waiting)
        remove_placement_group(group)


@pytest.mark.timeout(300)
def test_a_run_that_waits_for_others_says_for_what_and_ends(
    head: Head, one_and_a_half_cpus_taken: None, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    arguments = (*SMALL_RUN, f"run.directory={tmp_path / 'run'}", "rollout.num_workers=2", "run.num_steps=1")
    process = start_job(
        "train", *arguments, "rollout.start_deadline_s=20", "rollout.engine=simulated", log=log, head=head
    )
    try:
        assert process.wait(250) == 2, log.read_text()
    finally:
        end(process, signal.SIGKILL)
    said = log.read_text()
    assert "error: run: rollout-worker-" in said
    assert "waits for 0.5 CPU" in said
    assert re.search(r"Free: [0-9.]+: 0 of 2 CPU", said)
    assert "ask for fewer or smaller workers, or wait for others to end" in said
    assert "Traceback" not in said
    wait_for(
        "its actors to go", lambda: not [a for a in actors().values() if a["State"] == "ALIVE" and "run/" in a["Name"]]
    )


def test_a_dry_run_joins_the_cluster_to_see_whether_it_holds_the_run(head: Head, tmp_path: Path) -> None:
    arguments = (*SMALL_RUN, f"run.directory={tmp_path / 'run'}", "rollout.num_workers=9", "--dry-run")
    done = run_job("train", *arguments, head=head)
    assert done.returncode == 2
    assert "rollout.num_workers: the run needs 5.5 CPUs" in done.stderr
    assert "the cluster has 2" in done.stderr
