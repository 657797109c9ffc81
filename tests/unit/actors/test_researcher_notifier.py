"""Whether there may be news: told by the question that stands open, unknown while the forum does not answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from actors.researcher.tools import notifier as module
from actors.researcher.tools.notifier import Notifier
from cluster.remote import UnreachableError


class Board:
    """A forum whose answers to `news` are numbers, or errors; an empty queue lets the reader wait."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[int | Exception] = asyncio.Queue()
        self.after: list[int] = []
        self.asked: list[int] = []

    async def news(self, reader: str, after_seq: int, wait_s: float) -> int:
        self.after.append(after_seq)
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def unread(self, reader: str, after_seq: int, limit: int) -> list[dict[str, Any]]:
        self.asked.append(after_seq)
        return []


async def told(notifier: Notifier) -> None:
    await asyncio.wait_for(notifier.changed.wait(), 1)
    notifier.changed.clear()


@pytest.mark.parametrize("error", [UnreachableError("actor forum did not answer news"), KeyError("anything")])
def test_posts_are_asked_for_unless_the_forum_has_said_that_there_are_none(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(module, "REST_S", 0.01)

    async def asks(notifier: Notifier, board: Board, *after: int) -> list[int]:
        board.asked.clear()
        for number in after:
            assert await notifier.unread(number) == []
        return list(board.asked)

    async def play() -> None:
        board = Board()
        notifier = Notifier(board, "01-a")  # type: ignore[arg-type]
        assert await asks(notifier, board, 10**6) == [10**6]
        notifier.follow_forum()
        notifier.follow_forum()
        board.answers.put_nowait(4)
        await told(notifier)
        assert await asks(notifier, board, 3, 4) == [3]
        board.answers.put_nowait(4)  # nobody has posted for the whole time
        board.answers.put_nowait(7)
        await told(notifier)
        assert await asks(notifier, board, 6, 7) == [6]
        board.answers.put_nowait(error)
        while not await asks(notifier, board, 7):
            await asyncio.sleep(0)
        board.answers.put_nowait(7)
        await told(notifier)
        assert await asks(notifier, board, 7) == []
        assert board.after[:5] == [-1, 4, 4, 7, -1]
        await notifier.stop()
        assert await asks(notifier, board, 7) == [7]
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(play())


def test_one_that_never_followed_can_be_stopped() -> None:
    asyncio.run(Notifier(Board(), "01-a").stop())  # type: ignore[arg-type]
