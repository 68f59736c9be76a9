import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gps_ray.base.errors import DeadlineError, LearnerError, StorageError
from gps_ray.learning.mailbox import START, Kind, Mailbox, Message

KEY = "learning.update_deadline_s"


def run(test: Callable[[Mailbox], Awaitable[None]]) -> None:
    """Each test is one coroutine with a mailbox; none may take longer than two seconds."""

    async def whole() -> None:
        await asyncio.wait_for(test(Mailbox()), 2)

    asyncio.run(whole(), debug=False)


async def _started(mailbox: Mailbox) -> int:
    attempt = mailbox.open()
    assert mailbox.complete(attempt, START, "up")
    assert await mailbox.ready(1, KEY) == "up"
    return attempt


def _ask(mailbox: Mailbox, payload: Any = None, deadline_s: float = 1, kind: Kind = Kind.UPDATE) -> asyncio.Task[Any]:
    return asyncio.ensure_future(mailbox.ask(kind, payload, deadline_s, KEY))


def test_messages_come_in_order_and_each_gets_its_own_result() -> None:
    async def test(mailbox: Mailbox) -> None:
        attempt = await _started(mailbox)
        asked = [_ask(mailbox, payload) for payload in "abc"]
        await asyncio.sleep(0)
        taken = [await mailbox.next_message(attempt, 1) for _ in "abc"]
        assert [message.payload for message in taken] == ["a", "b", "c"]
        assert [message.sequence for message in taken] == [1, 2, 3]
        for message in reversed(taken):
            assert mailbox.complete(attempt, message.sequence, message.payload.upper())
        assert await asyncio.gather(*asked) == ["A", "B", "C"]

    run(test)


def test_workers_that_share_the_model_all_take_every_message_in_one_order() -> None:
    async def test(mailbox: Mailbox) -> None:
        attempt = mailbox.open(num_workers=2)
        mailbox.complete(attempt, START, "up")
        late = asyncio.ensure_future(mailbox.next_message(attempt, 1, rank=1))
        await asyncio.sleep(0)
        asked = [_ask(mailbox, payload) for payload in "ab"]
        first = [await mailbox.next_message(attempt, 1, rank=0) for _ in "ab"]
        assert [await late, await mailbox.next_message(attempt, 1, rank=1)] == first
        for message in first:
            mailbox.complete(attempt, message.sequence, message.payload)
        assert await asyncio.gather(*asked) == ["a", "b"]
        mailbox.close()
        for rank in range(2):
            assert (await mailbox.next_message(attempt, 1, rank)).kind is Kind.CLOSE

    run(test)


def test_a_worker_that_waits_gets_the_message_when_it_comes() -> None:
    async def test(mailbox: Mailbox) -> None:
        attempt = await _started(mailbox)
        waiting = asyncio.ensure_future(mailbox.next_message(attempt, 1))
        await asyncio.sleep(0.01)
        asked = _ask(mailbox, "late", kind=Kind.SAVE)
        message = await waiting
        assert (message.kind, message.payload) == (Kind.SAVE, "late")
        mailbox.complete(attempt, message.sequence, None)
        assert await asked is None

    run(test)


def test_a_worker_without_work_hears_idle() -> None:
    async def test(mailbox: Mailbox) -> None:
        attempt = await _started(mailbox)
        assert (await mailbox.next_message(attempt, 0.01)).kind is Kind.IDLE

    run(test)


def test_an_older_attempt_is_refused_in_everything() -> None:
    async def test(mailbox: Mailbox) -> None:
        old = await _started(mailbox)
        new = mailbox.open()
        assert new == old + 1
        assert not mailbox.complete(old, START, "I am late")
        assert mailbox.complete(new, START, "new")
        assert await mailbox.ready(1, KEY) == "new"
        asked = _ask(mailbox)
        await asyncio.sleep(0)
        assert (await mailbox.next_message(old, 1)).kind is Kind.CLOSE
        message = await mailbox.next_message(new, 1)
        assert not mailbox.complete(old, message.sequence, "of the old one")
        assert not mailbox.fail(old, "the old one died")
        assert mailbox.complete(new, message.sequence, "of the new one")
        assert await asked == "of the new one"

    run(test)


def test_a_new_attempt_fails_what_the_old_one_was_asked() -> None:
    async def test(mailbox: Mailbox) -> None:
        await _started(mailbox)
        asked = _ask(mailbox)
        await asyncio.sleep(0)
        new = mailbox.open()
        with pytest.raises(LearnerError, match="a new attempt began"):
            await asked
        mailbox.complete(new, START, "up")
        assert await mailbox.ready(1, KEY) == "up"
        # The old message is gone with its attempt.
        assert (await mailbox.next_message(new, 0.01)).kind is Kind.IDLE

    run(test)


@pytest.mark.parametrize("taken", [False, True])
def test_a_failing_worker_reaches_the_waiting_caller_and_later_ones(taken: bool) -> None:
    async def test(mailbox: Mailbox) -> None:
        attempt = await _started(mailbox)
        asked = [_ask(mailbox), _ask(mailbox)]
        await asyncio.sleep(0)
        if taken:
            await mailbox.next_message(attempt, 1)
        assert mailbox.fail(attempt, "loss is nan")
        assert not mailbox.fail(attempt, "the process left")  # the first reason stands
        for task in asked:
            with pytest.raises(LearnerError, match="attempt 1 ended: loss is nan"):
                await task
        with pytest.raises(LearnerError, match="loss is nan"):
            await mailbox.ask(Kind.PUBLISH, None, 1, KEY)
        assert (await mailbox.next_message(attempt, 1)).kind is Kind.CLOSE

    run(test)


def test_a_worker_that_does_not_come_up_is_a_deadline_that_names_its_key() -> None:
    async def test(mailbox: Mailbox) -> None:
        attempt = mailbox.open()
        with pytest.raises(DeadlineError, match=r"start took longer than 0.01 s; raise learning.start_deadline_s"):
            await mailbox.ready(0.01, "learning.start_deadline_s")
        assert not mailbox.complete(attempt, START, "late")
        with pytest.raises(LearnerError, match=r"takes no messages.*start took longer"):
            await mailbox.ask(Kind.SAVE, None, 1, "key")

    run(test)


def test_a_missed_deadline_ends_the_attempt_so_that_no_late_result_passes_for_another() -> None:
    async def test(mailbox: Mailbox) -> None:
        attempt = await _started(mailbox)
        other = _ask(mailbox, "other", deadline_s=5)
        with pytest.raises(DeadlineError, match=KEY):
            await mailbox.ask(Kind.UPDATE, "slow", 0.02, KEY)
        with pytest.raises(LearnerError, match="took longer than"):
            await other
        assert not mailbox.complete(attempt, 1, "late")
        assert (await mailbox.next_message(attempt, 1)).kind is Kind.CLOSE

    run(test)


def test_closing_lets_the_worker_leave_and_refuses_new_messages() -> None:
    async def test(mailbox: Mailbox) -> None:
        attempt = await _started(mailbox)
        waiting = asyncio.ensure_future(mailbox.next_message(attempt, 1))
        await asyncio.sleep(0)
        mailbox.close()
        assert (await waiting).kind is Kind.CLOSE
        with pytest.raises(LearnerError, match="takes no messages: it was closed"):
            await mailbox.ask(Kind.UPDATE, None, 1, KEY)
        assert not mailbox.fail(attempt, "left after the close")

    run(test)


def test_before_the_first_attempt_nothing_is_taken() -> None:
    async def test(mailbox: Mailbox) -> None:
        with pytest.raises(LearnerError, match="it was not started"):
            await mailbox.ask(Kind.UPDATE, None, 1, KEY)
        assert (await mailbox.next_message(0, 1)) == Message(attempt=0, sequence=START, kind=Kind.CLOSE)

    run(test)


def test_a_caller_that_gives_up_leaves_the_mailbox_usable() -> None:
    async def test(mailbox: Mailbox) -> None:
        attempt = await _started(mailbox)
        given_up = _ask(mailbox, "first")
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.sleep(0)
        asked = _ask(mailbox, "second")
        await asyncio.sleep(0)
        first = await mailbox.next_message(attempt, 1)
        assert not mailbox.complete(attempt, first.sequence, "nobody waits")
        second = await mailbox.next_message(attempt, 1)
        assert mailbox.complete(attempt, second.sequence, "done")
        assert await asked == "done"

    run(test)


def test_what_cannot_be_done_is_answered_with_its_error_and_the_attempt_goes_on() -> None:
    async def test(mailbox: Mailbox) -> None:
        attempt = await _started(mailbox)
        asked = _ask(mailbox, kind=Kind.SAVE)
        await asyncio.sleep(0)
        message = await mailbox.next_message(attempt, 1)
        assert mailbox.refuse(attempt, message.sequence, StorageError("the disk is full"))
        with pytest.raises(StorageError, match="the disk is full"):
            await asked
        assert not mailbox.refuse(attempt, message.sequence, StorageError("again"))
        assert not mailbox.refuse(attempt - 1, message.sequence, StorageError("of before"))
        asked = _ask(mailbox, "next")
        await asyncio.sleep(0)
        message = await mailbox.next_message(attempt, 1)
        assert mailbox.complete(attempt, message.sequence, "done")
        assert await asked == "done"

    run(test)
