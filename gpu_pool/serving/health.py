"""One question to a server behind a Unix socket: does it answer, and is it well?"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

_ASK = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


async def health_fault(socket: Path, patience_s: float) -> str:
    """Empty when `GET /health` gives status 200 within `patience_s` seconds, else what happened instead."""
    try:
        status = await asyncio.wait_for(_status_line(socket), patience_s)
    except TimeoutError:
        return f"no answer to a health check within {patience_s:g} s"
    except OSError as error:
        return f"no connection for a health check: {error.strerror or error}"
    words = status.split()
    return "" if len(words) > 1 and words[1] == b"200" else f"answers a health check with {status[:60]!r}"


async def _status_line(socket: Path) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(socket))
    try:
        writer.write(_ASK)
        await writer.drain()
        return await reader.readline()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
