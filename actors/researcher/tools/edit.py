"""Viewing and editing files, in the form of the text editor tool that Claude models know."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import Field, model_validator

from actors.researcher.tools.base import Args, Context, Tool
from actors.researcher.tools.files import check_room
from cluster.errors import Reason, RefusedError
from cluster.text import lines, lines_with_ends

ROOTS = (".", "", "/", "/ws", "/ws/")
IMAGES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".svg", ".pdf")
CONTEXT_LINES = 4
"""Lines shown around an edit."""
MAX_LISTED = 200
LAST_EDIT = "last-edit.json"
"""In the private directory: the edit that was made last, written before the file that it changes."""
MAX_MATCHES = 20
"""Lines named when a text stands in a file more than once."""


class EditArgs(Args):
    """Arguments of `str_replace_based_edit_tool`; which are needed depends on the command."""

    command: Literal["view", "create", "str_replace", "insert"]
    path: str = Field(
        description="file in the workspace, as /ws/methods/first.py or methods/first.py; for view a folder"
    )
    view_range: tuple[int, int] | None = Field(
        None, description="view: first and last line, counted from 1; -1 as the last is the end of the file"
    )
    file_text: str | None = Field(None, description="create: the whole content; an existing file is replaced")
    old_str: str | None = Field(None, description="str_replace: text that stands in the file exactly once")
    new_str: str | None = Field(None, description="str_replace: what takes its place; without it the text is deleted")
    insert_line: int | None = Field(None, ge=0, description="insert: line after which to insert; 0: at the beginning")
    insert_text: str | None = Field(None, description="insert: the text")

    @model_validator(mode="after")
    def _complete(self) -> EditArgs:
        needed = {"create": ("file_text",), "str_replace": ("old_str",), "insert": ("insert_line", "insert_text")}
        missing = [name for name in needed.get(self.command, ()) if getattr(self, name) is None]
        if missing:
            raise ValueError(f"{self.command} needs {' and '.join(missing)}")
        return self


class Edit(Tool[EditArgs]):
    """View, create and edit files of the workspace. Costs nothing.

    `view` shows a file with line numbers, or part of it, or what is in a folder. `create` writes a file. `str_replace`
    replaces a text that must stand in the file exactly once: give enough lines around it. `insert` puts text after a
    line. Edits return the lines around the change. Refused: a path outside the workspace, a link, a file that is
    missing, an image, not text or above 256 KiB, a text that is not there or there more than once, a line that the
    file does not have, writing into forum/, a full workspace.
    """

    name = "str_replace_based_edit_tool"
    free = True
    arguments = EditArgs

    async def run(self, ctx: Context, args: EditArgs, key: str) -> dict[str, Any]:
        """See the class."""
        if args.command == "view":
            return _view(ctx, args)
        check_room(ctx.workspace)
        if args.command == "create":
            return {"path": args.path, "bytes": ctx.workspace.write_text(args.path, args.file_text or "")}
        old = ctx.workspace.read_text(args.path)
        done = _done(ctx, key, old)
        if done is not None:
            return done
        new, line = _replaced(old, args) if args.command == "str_replace" else _inserted(old, args)
        answer = {"path": args.path, "text": _numbered(new, line - CONTEXT_LINES, line + CONTEXT_LINES)}
        ctx.workspace.keep(LAST_EDIT, json.dumps({"key": key, "sha256": _sha256(new), "answer": answer}))
        ctx.workspace.write_text(args.path, new)
        return answer


def _done(ctx: Context, key: str, text: str) -> dict[str, Any] | None:
    """The answer to the edit `key` when `text` is what it already made of the file: an edit is made once."""
    kept = json.loads(ctx.workspace.kept(LAST_EDIT) or "{}")
    if kept.get("key") != key or kept["sha256"] != _sha256(text):
        return None
    answer: dict[str, Any] = kept["answer"]
    return answer


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _view(ctx: Context, args: EditArgs) -> dict[str, Any]:
    if args.path in ROOTS or ctx.workspace.is_folder(args.path):
        return {"files": _listed(ctx, args.path)}
    if PurePosixPath(args.path).suffix.lower() in IMAGES:
        words = "pictures are not shown, because their cost cannot be reserved; print the figures behind it instead"
        raise RefusedError(Reason.IMAGE, f"{args.path}: {words}")
    text = ctx.workspace.read_text(args.path)
    count = len(lines(text))
    first, last = args.view_range or (1, -1)
    if not 1 <= first <= max(1, count) or (last != -1 and last < first):
        raise RefusedError(
            Reason.BAD_RANGE, f"{args.path} has {count} lines; view_range {first} to {last} is none of them"
        )
    return {"lines": count, "text": _numbered(text, first, count if last == -1 else last)}


def _listed(ctx: Context, folder: str) -> list[str]:
    """Files below a folder, by path, with their bytes."""
    below = "" if folder in ROOTS else folder.removeprefix("/ws/").strip("/")
    return [f"{entry['path']} ({entry['bytes']} bytes)" for entry in ctx.workspace.listing(below, MAX_LISTED)]


def _replaced(old: str, args: EditArgs) -> tuple[str, int]:
    """The text after a replacement, and the line of it."""
    wanted = args.old_str or ""
    count = old.count(wanted) if wanted else 0
    if count == 0:
        raise RefusedError(
            Reason.NO_MATCH, f"old_str does not stand in {args.path}, white space and line ends included"
        )
    if count > 1:
        raise RefusedError(
            Reason.AMBIGUOUS,
            f"old_str stands {count} times in {args.path}: give more of its surroundings",
            {"lines": list(islice(_lines_of(old, wanted), MAX_MATCHES))},
        )
    at = old.index(wanted)
    return old[:at] + (args.new_str or "") + old[at + len(wanted) :], old.count("\n", 0, at) + 1


def _lines_of(text: str, wanted: str) -> Iterator[int]:
    """The lines, counted from 1, on which `wanted` begins; each once."""
    line, named, before = 1, 0, 0
    at = text.find(wanted)
    while at >= 0:
        line += text.count("\n", before, at)
        if line != named:
            yield line
        named, before = line, at
        at = text.find(wanted, at + len(wanted))


def _inserted(old: str, args: EditArgs) -> tuple[str, int]:
    """The text after an insertion, and the line of it."""
    there = lines_with_ends(old)
    at = args.insert_line or 0
    if at > len(there):
        raise RefusedError(Reason.BAD_RANGE, f"{args.path} has {len(there)} lines; nothing can follow line {at}")
    if at and not there[at - 1].endswith("\n"):
        there[at - 1] += "\n"
    text = args.insert_text or ""
    if text and not text.endswith("\n"):
        text += "\n"
    return "".join([*there[:at], text, *there[at:]]), at + 1


def _numbered(text: str, first: int, last: int) -> str:
    """Lines `first` to `last` with their numbers."""
    there = lines(text)
    first, last = max(1, first), min(len(there), last)
    return "\n".join(f"{n:>6}\t{there[n - 1]}" for n in range(first, last + 1))
