from collections.abc import Sequence

import numpy as np
import pytest

from gps_ray.base.errors import RolloutError
from gps_ray.base.types import Prompt, Sampling
from gps_ray.rollout.chunk import ChunkRequest
from gps_ray.rollout.dispatch import Dispatcher, WorkerState


def _chunks(*num_rollouts: int, version: int = 0, tokens: Sequence[float] | None = None) -> list[ChunkRequest]:
    """Chunks of one prompt; without ``tokens`` as many are expected of each as it has rollouts."""
    prompt = Prompt(prompt_id="p", text="", answer="", task="")
    return [
        ChunkRequest(
            chunk_id=i,
            step=1,
            stream="rollout",
            prompts=(prompt,),
            num_rollouts=np.array([num], np.int32),
            policy_version=version,
            sampling=Sampling(temperature=1.0, max_response_tokens=4),
            expected_tokens=num if tokens is None else tokens[i],
        )
        for i, num in enumerate(num_rollouts)
    ]


def _healthy(num_workers: int, **limits: int) -> Dispatcher:
    dispatcher = Dispatcher(num_workers=num_workers, **({"max_chunk_attempts": 3} | limits))
    dispatcher.publish(0)
    for worker in range(num_workers):
        dispatcher.worker_restarted(worker)
    _load(dispatcher)
    return dispatcher


def _load(dispatcher: Dispatcher) -> list[tuple[int, int]]:
    """Every load that is due, done at once."""
    loads = dispatcher.begin_loads()
    for worker, version in loads:
        dispatcher.loaded(worker, version)
    return loads


def _assign(dispatcher: Dispatcher) -> list[tuple[int, int]]:
    return [(assigned.worker, assigned.ticket) for assigned in dispatcher.assign()]


def test_the_worker_with_the_fewest_expected_tokens_gets_the_longest_chunk() -> None:
    dispatcher = _healthy(2)
    dispatcher.submit(_chunks(1, 1, 1, 1, 1, tokens=[10, 50, 20, 35, 5]))
    # 50 | 35; then 20 to worker 1 (35 < 50), 10 to worker 0, which had one chunk only.
    assert _assign(dispatcher) == [(0, 1), (1, 3), (1, 2), (0, 0)]
    assert _assign(dispatcher) == []
    assert dispatcher.num_pending == 1
    assert dispatcher.finished(0, 1)
    assert _assign(dispatcher) == [(0, 4)]


def test_equal_chunks_go_out_in_the_order_of_the_selection() -> None:
    dispatcher = _healthy(2)
    dispatcher.submit(_chunks(4, 4, 4, 4, 4))
    assert _assign(dispatcher) == [(0, 0), (1, 1), (0, 2), (1, 3)]


def test_a_request_is_done_when_every_chunk_is() -> None:
    dispatcher = _healthy(1)
    assert dispatcher.is_done
    assert dispatcher.submit([]) == []
    dispatcher.submit(_chunks(1, 1))
    assert not dispatcher.is_done
    _assign(dispatcher)
    assert dispatcher.finished(0, 1)
    assert not dispatcher.is_done
    assert dispatcher.finished(0, 0)
    assert dispatcher.is_done
    # The next request may have chunks of the same ids.
    assert dispatcher.submit(_chunks(1, 1)) == [2, 3]
    assert _assign(dispatcher) == [(0, 2), (0, 3)]


def test_workers_pass_through_their_states() -> None:
    dispatcher = Dispatcher(num_workers=1, max_chunk_attempts=3)
    dispatcher.submit(_chunks(1, version=3))
    assert dispatcher.state(0) is WorkerState.STARTING
    assert dispatcher.begin_loads() == []
    dispatcher.worker_restarted(0)
    dispatcher.publish(3)
    assert dispatcher.begin_loads() == [(0, 3)]
    assert dispatcher.begin_loads() == []  # it is at it
    assert (dispatcher.state(0), _assign(dispatcher)) == (WorkerState.STALE, [])
    dispatcher.loaded(0, 2)  # not what it was told
    assert dispatcher.state(0) is WorkerState.STALE
    dispatcher.loaded(0, 3)
    assert (dispatcher.state(0), dispatcher.num_healthy, dispatcher.is_settled) == (WorkerState.HEALTHY, 1, True)
    assert _assign(dispatcher) == [(0, 0)]
    dispatcher.publish(4)
    assert (dispatcher.begin_loads(), dispatcher.num_healthy, dispatcher.is_settled) == ([], 0, True)
    dispatcher.worker_died(0)
    assert (dispatcher.state(0), dispatcher.is_settled) == (WorkerState.DEAD, False)
    dispatcher.loaded(0, 4)  # a late answer of the dead worker
    assert dispatcher.state(0) is WorkerState.DEAD
    dispatcher.worker_restarted(0)
    # What was asked for comes before what is newest.
    assert _load(dispatcher) == [(0, 3)]
    assert _assign(dispatcher) == [(0, 0)]
    assert dispatcher.finished(0, 0)
    assert _load(dispatcher) == [(0, 4)]


def test_a_worker_with_nothing_left_of_a_version_goes_on_while_others_finish() -> None:
    dispatcher = _healthy(2)
    dispatcher.submit(_chunks(8, 2, 2))
    assert _assign(dispatcher) == [(0, 0), (1, 1), (1, 2)]
    dispatcher.publish(1)
    dispatcher.submit(_chunks(3, 3, 3, version=1))
    assert (_load(dispatcher), _assign(dispatcher)) == ([], [])
    dispatcher.finished(1, 1)
    assert _load(dispatcher) == []  # it still has one of version 0
    dispatcher.finished(1, 2)
    assert (_load(dispatcher), _assign(dispatcher)) == ([(1, 1)], [(1, 3), (1, 4)])
    assert (dispatcher.version(0), dispatcher.wanted_versions) == (0, {0, 1})
    dispatcher.finished(0, 0)
    assert (_load(dispatcher), _assign(dispatcher)) == ([(0, 1)], [(0, 5)])


def test_a_batch_leaves_workers_to_the_next_one() -> None:
    dispatcher = _healthy(4)
    dispatcher.submit(_chunks(5, 4, 3, 2), max_workers=2)
    assert _assign(dispatcher) == [(0, 0), (1, 1), (1, 2), (0, 3)]
    dispatcher.publish(1)
    dispatcher.submit(_chunks(5, 4, 3, 2, 1, version=1), max_workers=2)
    assert _load(dispatcher) == [(2, 1), (3, 1)]
    assert _assign(dispatcher) == [(2, 4), (3, 5), (3, 6), (2, 7)]
    # Free again, and no part of the second batch: what is left of that waits for its own two.
    for ticket, worker in ((0, 0), (3, 0)):
        dispatcher.finished(worker, ticket)
    assert (_load(dispatcher), _assign(dispatcher)) == ([(0, 1)], [])
    dispatcher.finished(2, 4)
    assert _assign(dispatcher) == [(2, 8)]


def test_a_worker_is_filled_and_then_says_how_many_rollouts_it_takes() -> None:
    dispatcher = _healthy(2, num_places=8)
    assert not dispatcher.needs_room(0)
    dispatcher.submit(_chunks(4, 4, 4, 4, 4, 4, 4, 4))
    # Both are filled by turns, whichever would answer first.
    assert _assign(dispatcher) == [(0, 0), (1, 1), (0, 2), (1, 3)]
    assert (dispatcher.needs_room(0), dispatcher.needs_room(1)) == (True, True)
    dispatcher.set_room(0, 5)
    assert not dispatcher.needs_room(0)
    assert _assign(dispatcher) == [(0, 4), (0, 5)]
    assert dispatcher.finished(1, 1)
    assert _assign(dispatcher) == []  # it has another one, and has not said that it takes more
    assert dispatcher.finished(1, 3)
    assert _assign(dispatcher) == [(1, 6), (1, 7)]
    assert not dispatcher.needs_room(1)


def test_the_first_worker_to_be_up_is_not_given_the_work_of_all() -> None:
    dispatcher = _healthy(3, num_places=100)
    dispatcher.publish(1)
    dispatcher.submit(_chunks(4, 4, 4, 4, version=1), max_workers=2)
    loads = dispatcher.begin_loads()
    assert loads == [(0, 1), (1, 1), (2, 1)]
    dispatcher.loaded(1, 1)
    assert _assign(dispatcher) == []  # worker 0 has nothing to do either
    dispatcher.loaded(0, 1)
    # Two of three may share it: nobody waits for the third.
    assert _assign(dispatcher) == [(0, 0), (1, 1), (0, 2), (1, 3)]
    dispatcher.loaded(2, 1)
    dispatcher.submit(_chunks(4, version=1), max_workers=1)
    assert _assign(dispatcher) == [(2, 4)]


def test_who_served_a_request_is_still_known_while_the_next_weights_are_loaded() -> None:
    dispatcher = _healthy(3)
    assert dispatcher.num_served == 0
    dispatcher.submit(_chunks(1, 1))
    assert _assign(dispatcher) == [(0, 0), (1, 1)]
    dispatcher.worker_died(2)
    dispatcher.finished(0, 0)
    dispatcher.finished(1, 1)
    dispatcher.publish(1)
    dispatcher.begin_loads()
    assert (dispatcher.num_healthy, dispatcher.num_served) == (0, 2)


def test_what_a_dead_worker_owed_goes_to_others_first() -> None:
    dispatcher = _healthy(2)
    chunks = _chunks(4, 4, 4, 4, 4)
    dispatcher.submit(chunks)
    assert _assign(dispatcher) == [(0, 0), (1, 1), (0, 2), (1, 3)]
    assert dispatcher.worker_died(0) == [0, 2]
    assert not dispatcher.is_in_flight(0, 0)
    assert dispatcher.finished(1, 1)
    assert dispatcher.finished(1, 3)
    again = dispatcher.assign()
    assert [(assigned.worker, assigned.ticket) for assigned in again] == [(1, 0), (1, 2)]
    # The same request object: the same seeds.
    assert again[0].chunk is chunks[0]


def test_a_repeated_result_counts_once_whoever_comes_first() -> None:
    dispatcher = _healthy(3)
    dispatcher.submit(_chunks(1, 1, 1))
    assert _assign(dispatcher) == [(0, 0), (1, 1), (2, 2)]
    dispatcher.worker_died(0)
    assert _assign(dispatcher) == [(1, 0)]
    assert dispatcher.finished(0, 0)  # given up, but it had only been slow
    # Whoever is still at it has something left, and loads nothing yet.
    dispatcher.finished(1, 1)
    dispatcher.publish(1)
    assert _load(dispatcher) == []
    assert not dispatcher.finished(1, 0)
    assert _load(dispatcher) == [(1, 1)]
    dispatcher.worker_died(2)
    assert dispatcher.finished(2, 2)  # late, and not yet with anyone else
    assert _assign(dispatcher) == []
    assert dispatcher.is_done


def test_what_nobody_wants_any_more_is_not_begun() -> None:
    dispatcher = _healthy(1, max_in_flight=1)
    dispatcher.drop(dispatcher.submit(_chunks(2, 1))[:1])
    assert _assign(dispatcher) == [(0, 1)]
    dispatcher.drop([1])
    assert (dispatcher.is_done, dispatcher.worker_died(0)) == (True, [])


def test_a_chunk_that_kills_its_workers_ends_the_run() -> None:
    dispatcher = _healthy(1, max_chunk_attempts=2)
    dispatcher.submit(_chunks(1))
    _assign(dispatcher)
    assert dispatcher.worker_died(0) == [0]
    dispatcher.worker_restarted(0)
    _load(dispatcher)
    assert _assign(dispatcher) == [(0, 0)]
    with pytest.raises(RolloutError, match=r"chunk 0 .* 2 times.*rollout\.max_chunk_attempts"):
        dispatcher.worker_died(0)


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_deaths_and_answers_yields_every_chunk_exactly_once(seed: int) -> None:
    """Three versions are under way at a time; no worker ever runs a chunk of another version than it serves."""
    rng = np.random.Generator(np.random.Philox(seed))
    dispatcher = _healthy(3, max_chunk_attempts=1000)
    for version in range(3):
        dispatcher.publish(version)
        dispatcher.submit(_chunks(*rng.integers(1, 9, 15), version=version), max_workers=[None, 2, 1][version])
    running: list[tuple[int, int]] = []
    yielded: list[int] = []
    while not dispatcher.is_done:
        _load(dispatcher)
        for assigned in dispatcher.assign():
            assert dispatcher.state(assigned.worker) is WorkerState.HEALTHY
            assert dispatcher.version(assigned.worker) == assigned.chunk.policy_version
            running.append((assigned.worker, assigned.ticket))
        if rng.random() < 0.3:
            victim = int(rng.integers(3))
            dispatcher.worker_died(victim)
            # Some of its answers are on their way all the same.
            running = [pair for pair in running if pair[0] != victim or rng.random() < 0.5]
            dispatcher.worker_restarted(victim)
        elif running:
            worker, ticket = running.pop(int(rng.integers(len(running))))
            if dispatcher.finished(worker, ticket):
                yielded.append(ticket)
    assert sorted(yielded) == list(range(45))
