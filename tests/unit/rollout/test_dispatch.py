import numpy as np
import pytest

from gps_ray.base.errors import RolloutError
from gps_ray.base.types import Prompt, Sampling
from gps_ray.rollout.chunk import ChunkRequest
from gps_ray.rollout.dispatch import Dispatcher, WorkerState


def _chunks(*num_rollouts: int, first: int = 0) -> list[ChunkRequest]:
    prompt = Prompt(prompt_id="p", text="", answer="", task="")
    return [
        ChunkRequest(
            chunk_id=first + i,
            step=1,
            stream="rollout",
            prompts=(prompt,),
            num_rollouts=np.array([num], np.int32),
            policy_version=0,
            sampling=Sampling(temperature=1.0, max_response_tokens=4),
        )
        for i, num in enumerate(num_rollouts)
    ]


def _healthy(num_workers: int, **limits: int) -> Dispatcher:
    dispatcher = Dispatcher(num_workers=num_workers, **({"max_chunk_attempts": 3} | limits))
    dispatcher.publish(0)
    for worker in range(num_workers):
        dispatcher.worker_restarted(worker)
        dispatcher.loaded(worker, 0)
    return dispatcher


def _assign(dispatcher: Dispatcher) -> list[tuple[int, int]]:
    return [(worker, chunk.chunk_id) for worker, chunk in dispatcher.assign()]


def test_the_least_loaded_worker_gets_the_next_chunk() -> None:
    dispatcher = _healthy(2)
    dispatcher.submit(_chunks(8, 2, 2, 2, 2))
    # Worker 1 has 2, then 4 rollouts in flight against 8, until it holds its two chunks.
    assert _assign(dispatcher) == [(0, 0), (1, 1), (1, 2), (0, 3)]
    assert _assign(dispatcher) == []
    assert dispatcher.num_pending == 1
    assert dispatcher.finished(0, 0)
    assert _assign(dispatcher) == [(0, 4)]


def test_a_request_is_done_when_every_chunk_is() -> None:
    dispatcher = _healthy(1)
    assert dispatcher.is_done
    dispatcher.submit(_chunks(1, 1))
    assert not dispatcher.is_done
    _assign(dispatcher)
    assert dispatcher.finished(0, 1)
    assert not dispatcher.is_done
    assert dispatcher.finished(0, 0)
    assert dispatcher.is_done
    dispatcher.submit(_chunks(1, 1))  # the next request may count from 0 again
    assert _assign(dispatcher) == [(0, 0), (0, 1)]


def test_workers_pass_through_their_states() -> None:
    dispatcher = Dispatcher(num_workers=1, max_chunk_attempts=3)
    dispatcher.submit(_chunks(1))
    assert dispatcher.state(0) is WorkerState.STARTING
    dispatcher.loaded(0, 0)  # nothing was published
    assert dispatcher.state(0) is WorkerState.STARTING
    dispatcher.worker_restarted(0)
    assert dispatcher.state(0) is WorkerState.STALE
    dispatcher.publish(3)
    dispatcher.loaded(0, 2)
    assert dispatcher.state(0) is WorkerState.STALE
    assert _assign(dispatcher) == []
    dispatcher.loaded(0, 3)
    assert (dispatcher.state(0), dispatcher.num_healthy) == (WorkerState.HEALTHY, 1)
    dispatcher.publish(4)
    assert dispatcher.state(0) is WorkerState.STALE
    assert _assign(dispatcher) == []
    dispatcher.loaded(0, 4)
    assert _assign(dispatcher) == [(0, 0)]
    dispatcher.worker_died(0)
    assert (dispatcher.state(0), dispatcher.num_healthy) == (WorkerState.DEAD, 0)
    dispatcher.loaded(0, 4)  # a late answer of the dead worker
    assert dispatcher.state(0) is WorkerState.DEAD


def test_who_served_a_request_is_still_known_while_the_next_weights_are_loaded() -> None:
    dispatcher = _healthy(3)
    assert dispatcher.num_served == 0
    dispatcher.submit(_chunks(1, 1))
    assert _assign(dispatcher) == [(0, 0), (1, 1)]
    dispatcher.worker_died(2)
    dispatcher.finished(0, 0)
    dispatcher.finished(1, 1)
    dispatcher.publish(1)
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
    assert [(worker, chunk.chunk_id) for worker, chunk in again] == [(1, 0), (1, 2)]
    # The same request object: the same seeds.
    assert again[0][1] is chunks[0]


def test_a_repeated_result_counts_once_whoever_comes_first() -> None:
    dispatcher = _healthy(3)
    dispatcher.submit(_chunks(1, 1, 1))
    assert _assign(dispatcher) == [(0, 0), (1, 1), (2, 2)]
    dispatcher.worker_died(0)
    assert _assign(dispatcher) == [(1, 0)]
    assert dispatcher.finished(0, 0)  # given up, but it had only been slow
    assert not dispatcher.finished(1, 0)
    dispatcher.worker_died(2)
    assert dispatcher.finished(2, 2)  # late, and not yet with anyone else
    assert _assign(dispatcher) == []
    assert dispatcher.finished(1, 1)
    assert dispatcher.is_done


def test_a_worker_is_free_again_when_another_finished_its_chunk() -> None:
    dispatcher = _healthy(2, max_in_flight=1)
    dispatcher.submit(_chunks(1, 1))
    _assign(dispatcher)
    dispatcher.worker_died(0)
    assert dispatcher.finished(1, 1)
    assert _assign(dispatcher) == [(1, 0)]
    dispatcher.finished(0, 0)
    dispatcher.submit(_chunks(1, first=7))
    assert _assign(dispatcher) == [(1, 7)]


def test_a_chunk_that_kills_its_workers_ends_the_run() -> None:
    dispatcher = _healthy(1, max_chunk_attempts=2)
    dispatcher.submit(_chunks(1))
    _assign(dispatcher)
    assert dispatcher.worker_died(0) == [0]
    dispatcher.worker_restarted(0)
    dispatcher.loaded(0, 0)
    assert _assign(dispatcher) == [(0, 0)]
    with pytest.raises(RolloutError, match=r"chunk 0 .* 2 times.*rollout\.max_chunk_attempts"):
        dispatcher.worker_died(0)


def test_a_chunk_id_may_not_be_wanted_twice() -> None:
    dispatcher = _healthy(1)
    dispatcher.submit(_chunks(1))
    with pytest.raises(RolloutError, match="twice"):
        dispatcher.submit(_chunks(1))


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_deaths_and_answers_yields_every_chunk_exactly_once(seed: int) -> None:
    rng = np.random.Generator(np.random.Philox(seed))
    dispatcher = _healthy(3, max_chunk_attempts=1000)
    dispatcher.submit(_chunks(*rng.integers(1, 9, 40)))
    running: list[tuple[int, int]] = []
    yielded: list[int] = []
    while not dispatcher.is_done:
        running += _assign(dispatcher)
        assert all(dispatcher.state(worker) is WorkerState.HEALTHY for worker, _ in running[-1:])
        if rng.random() < 0.3:
            victim = int(rng.integers(3))
            dispatcher.worker_died(victim)
            # Some of its answers are on their way all the same.
            running = [pair for pair in running if pair[0] != victim or rng.random() < 0.5]
            dispatcher.worker_restarted(victim)
            dispatcher.loaded(victim, 0)
        elif running:
            worker, chunk_id = running.pop(int(rng.integers(len(running))))
            if dispatcher.finished(worker, chunk_id):
                yielded.append(chunk_id)
    assert sorted(yielded) == list(range(40))
