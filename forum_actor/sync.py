"""The forum as read-only files in a researcher's workspace: `forum/INDEX.md` and one file per post.

The workspace belongs to untrusted code, which may put a link in the way to make the forum write elsewhere. So every
step works relative to an open directory and follows no link; a thing that stands where the folder belongs is moved
aside, and a file is made under a fresh name and renamed into place. Writing is incremental: posts never change, so a
post whose file is there is not written again.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from forum_actor.posts import NOTICE, Post
from forum_actor.render import index_line, render

FOLDER = "forum"
INDEX = "INDEX.md"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def file_name(post: Post) -> str:
    """A safe name of a post's file: its number, kind and author (all set by the forum)."""
    return f"{post.seq:06d}-{post.kind}-{post.author}.md"


def sync(workspace: Path, posts: list[Post], held: Sequence[Post] = ()) -> int:
    """Bring `<workspace>/forum/` up to date with `posts`; how many files were written, the index not counted.

    Copies of posts that are `held` are taken away. Raises `OSError` when the workspace itself is missing or is a link.
    """
    with _opened(os.open(workspace, _DIRECTORY)) as parent, _opened(_forum_folder(parent)) as folder:
        present = _own_files(folder)
        fresh = [post for post in posts if file_name(post) not in present]
        stale = [name for name in map(file_name, held) if name in present]
        for name in stale:
            os.unlink(name, dir_fd=folder)
        for post in fresh:
            _write(folder, file_name(post), render(post))
        if fresh or stale or INDEX not in present:
            _write(folder, INDEX, _index(posts))
    return len(fresh)


def _index(posts: list[Post]) -> str:
    head = f"# Forum: {len(posts)} posts\n\n{NOTICE} Titles are quoted; numbers count only with a record id.\n\n"
    return head + "\n".join(index_line(post, file_name(post)) for post in reversed(posts)) + "\n"


@contextmanager
def _opened(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


def _forum_folder(parent: int) -> int:
    try:
        found = os.stat(FOLDER, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        found = None
    if found is not None and not (stat.S_ISDIR(found.st_mode) and _is_own(found)):
        _move_aside(parent, FOLDER)
        found = None
    if found is None:
        os.mkdir(FOLDER, 0o700, dir_fd=parent)
    folder = os.open(FOLDER, _DIRECTORY, dir_fd=parent)
    os.fchmod(folder, 0o755)
    return folder


def _move_aside(folder: int, name: str) -> None:
    os.rename(name, f"{name}.{os.urandom(4).hex()}.moved-aside", src_dir_fd=folder, dst_dir_fd=folder)


def _own_files(folder: int) -> set[str]:
    with os.scandir(folder) as entries:
        return {e.name for e in entries if e.is_file(follow_symlinks=False) and _is_own(e.stat(follow_symlinks=False))}


def _is_own(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid()


def _write(folder: int, name: str, text: str) -> None:
    temporary = f".{name}.{os.urandom(4).hex()}"
    fd = os.open(temporary, _CREATE, 0o600, dir_fd=folder)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fchmod(file.fileno(), 0o444)
    try:
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except IsADirectoryError:
        _move_aside(folder, name)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
