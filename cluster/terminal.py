"""What a script prints: to a terminal, into a pipe, to a reader who leaves.

`run_script` is the way in of every script. From then on a reader who goes away (`| head`) is no error: the rest is
dropped, the script goes on to its end, and its exit status is its own. A character that the terminal has no code for is
escaped. Tables are never cropped: into a pipe they are as wide as they need to be, on a terminal long cells are folded.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.text import Text

from cluster.text import visible, visible_line

if TYPE_CHECKING:
    from typing_extensions import Buffer


def run_script(main: Callable[[list[str]], int | None]) -> int | None:
    """The exit status of `main`, called with the command line."""
    sys.stdout, sys.stderr = _lasting(sys.stdout), _lasting(sys.stderr)
    try:
        return main(sys.argv[1:])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def complain(who: str, error: object) -> None:
    """Say on standard error what went wrong; errors may quote strangers."""
    sys.stderr.write(visible(f"{who}: {error}") + "\n")


def cell(value: object) -> Text:
    """A value as a cell of a table: no markup, nothing that steers the terminal."""
    return Text(visible_line(str(value)), overflow="fold")


def show(table: RenderableType, file: TextIO | None = None) -> None:
    """Print a table or other renderable, whole."""
    console = Console(file=file)
    if not console.is_terminal:
        console = Console(file=file, width=max(80, _width(console, table)), legacy_windows=False)
    console.print(table, crop=False)


def _width(console: Console, shown: RenderableType) -> int:
    options = console.options.update(width=1 << 20, max_width=1 << 20)
    return Measurement.get(console, options, shown).maximum


def _lasting(stream: TextIO) -> TextIO:
    """The stream, over a file that takes everything when its reader has left."""
    try:
        descriptor = stream.fileno()
    except (OSError, AttributeError, ValueError):  # replaced by somebody, or closed
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Lasting(descriptor)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.isatty() or stream is sys.stderr,
    )


class _Lasting(io.RawIOBase):
    """Writes to a descriptor until nobody reads it any more."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._gone = descriptor, False

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer, /) -> int | None:
        if not self._gone:
            try:
                return os.write(self._descriptor, data)
            except BrokenPipeError:
                self._gone = True
            except BlockingIOError:  # a pipe that does not wait: the buffer above tries again
                return None
        return memoryview(data).nbytes
