"""Actors that Ray has not found a place for: who waits for which resources, and what is free where."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import state
from ray.util.placement_group import placement_group_table

from gps_ray.base.errors import DeadlineError, ResourceError

__all__ = ["said_while_unplaced", "unplaced"]

_PERIOD_S = 15.0
_KINDS = ("CPU", "GPU")
_MAX_NODES = 8


def unplaced(actors: Mapping[str, tuple[Any, Mapping[str, float]]]) -> str:
    """Of ``actors`` (by name: handle, resources) and of all placement groups those without a place, and what is free
    on each node, as one line; "" where all have one. Asks Ray's head."""
    waiting = []
    for name, (handle, needs) in actors.items():
        known = state.actors(handle._actor_id.hex())
        # Ray leases a worker process on a node first; the actor's own start comes after.
        if known.get("State") in ("PENDING_CREATION", "DEPENDENCIES_UNREADY") and not known.get("Pid"):
            waiting.append(f"{name} waits for {_amounts(needs)}")
    for group in placement_group_table().values():
        if group["state"] in ("PENDING", "RESCHEDULING"):
            bundles = [_amounts(bundle) for bundle in group["bundles"].values()]
            kinds = " + ".join(f"{bundles.count(bundle)} x ({bundle})" for bundle in dict.fromkeys(bundles))
            where = " on one node" if group["strategy"] == "STRICT_PACK" else ""
            waiting.append(f"a group of workers waits for {kinds}{where}")
    return f"{'; '.join(waiting)}. Free: {_free()}" if waiting else ""


def _free() -> str:
    free = state.available_resources_per_node()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    shown = []
    for node in nodes[:_MAX_NODES]:
        left, whole = free.get(node["NodeID"], {}), node["Resources"]
        parts = [f"{left.get(kind, 0.0):g} of {whole[kind]:g} {kind}" for kind in _KINDS if whole.get(kind)]
        shown.append(f"{node['NodeManagerAddress']}: {', '.join(parts) or 'no CPU'}")
    more = [f"{len(nodes) - _MAX_NODES} more nodes"] if len(nodes) > _MAX_NODES else []
    return "; ".join([*shown, *more])


def _amounts(needs: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {kind}" for kind, amount in needs.items() if amount) or "a process"


@contextmanager
def said_while_unplaced(
    name: str, actors: Callable[[], Mapping[str, tuple[Any, Mapping[str, float]]]], period_s: float = _PERIOD_S
) -> Iterator[None]:
    """Within a coroutine that waits for ``actors`` to come up: say what has no place, every ``period_s`` as long as it
    changes. A deadline that passes meanwhile becomes ResourceError with the last of these lines."""
    said = ""

    async def look() -> None:
        nonlocal said
        while True:
            await asyncio.sleep(period_s)
            now = await asyncio.to_thread(unplaced, actors())
            if now and now != said:
                print(f"{name}: {now}", file=sys.stderr, flush=True)
            said = now

    looking = asyncio.ensure_future(look())
    try:
        yield
    except DeadlineError as error:
        if not said:
            raise
        raise ResourceError(
            f"{name}: {said}; ask for fewer or smaller workers, or wait for others to end ({error})"
        ) from error
    finally:
        looking.cancel()
