"""The way from a TCP address to a server behind a Unix socket, and the knowledge of when it was last used.

Promises:
- The port is bound before the first server process starts and is kept across its restarts: nobody else can take it.
- While there is no server, a connection is answered with HTTP 503 and `Retry-After`, which every client understands.
- A server counts as in use while a connection waits for an answer, however long that takes (up to `LONGEST_CALL_S`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LONGEST_CALL_S = 3600.0
_CHUNK = 1 << 16
_BODY = b'{"type":"error","error":{"type":"overloaded_error","message":"the model server is starting"}}'
_ABSENT = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 2\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)


@dataclass(slots=True)
class _Link:
    """One connection; `asked_at` is when its client last spoke without an answer since (monotonic seconds)."""

    asked_at: float | None = None


class Relay:
    """Use from one event loop: `open`, later `close`."""

    def __init__(self, socket: Path) -> None:
        """`socket` is where the server listens when it is there."""
        self._socket = socket
        self._server: asyncio.Server | None = None
        self._links: dict[asyncio.Task[None], _Link] = {}
        self._last = time.monotonic()
        self.connections = 0
        self.answer_bytes = 0

    async def open(self, host: str) -> int:
        """Listen on a free port of `host`; the port."""
        self._server = await asyncio.start_server(self._accept, host, 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening and cut what is open."""
        if self._server is not None:
            self._server.close()
        links = list(self._links)
        for task in links:
            task.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    def idle_s(self) -> float:
        """Seconds since the last byte in either direction; 0 while a client waits for an answer."""
        now = time.monotonic()
        asked = [link.asked_at for link in self._links.values() if link.asked_at is not None]
        return 0.0 if any(now - at < LONGEST_CALL_S for at in asked) else now - self._last

    def touch(self) -> None:
        """Count the present moment as use."""
        self._last = time.monotonic()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        link = self._links[task] = _Link()
        self.connections += 1
        try:
            await self._join(reader, writer, link)
        except OSError:  # one side went away: so does the other
            pass
        finally:
            self._links.pop(task, None)
            writer.close()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: _Link) -> None:
        try:
            answers, asks = await asyncio.open_unix_connection(str(self._socket))
        except OSError:
            await reader.read(_CHUNK)  # a client that is cut while it still writes sees no answer
            writer.write(_ABSENT)
            await writer.drain()
            return

        def asked(_: int) -> None:
            link.asked_at = self._last = time.monotonic()

        def answered(size: int) -> None:
            link.asked_at, self._last = None, time.monotonic()
            self.answer_bytes += size

        up = asyncio.create_task(_pump(reader, asks, asked))
        down = asyncio.create_task(_pump(answers, writer, answered))
        try:
            # The server's end of the connection ends it; a client may close its half and still await the answer.
            await down
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            asks.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, note: Callable[[int], None]) -> None:
    while data := await source.read(_CHUNK):
        note(len(data))
        sink.write(data)
        await sink.drain()
    with contextlib.suppress(OSError):
        if sink.can_write_eof():
            sink.write_eof()
