"""The files of a researcher: a workspace that its own untrusted commands may write, and a private place that they
never see.

Promises: no name leads out of the workspace, whatever links a command put into it; what is read is a regular file
under a size cap; a file is written whole or not at all. `forum/` belongs to the forum and is read-only here.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from cluster.errors import Reason, RefusedError
from cluster.file_kind import why_not_text
from cluster.objects import ObjectError, safe_relative
from cluster.sandbox.errors import ReadbackError
from cluster.sandbox.readback import readback
from cluster.trees import Walk

MAX_FILE_BYTES = 256 << 10
MAX_METHOD_BYTES = 64 << 10
MAX_LISTED = 500
MAX_ENTRIES = 50_000
"""Files and folders of a workspace that are looked at, to list them or to add up their bytes."""
QUOTA_BYTES = 256 << 20
"""What a workspace may hold before tools that write into it refuse."""
FORUM_FOLDER = "forum"
NOTEBOOK = "notebook.md"
"""The file that a language model keeps its memory in, beyond what its conversation holds."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Workspace:
    """The workspace at `root` (shared with sandboxes) and the private directory beside it (mode 0700)."""

    def __init__(self, root: Path, private: Path, uid: int | None = None) -> None:
        """`uid` is that of the sandboxes: when this process is root, the workspace belongs to it."""
        root.mkdir(parents=True, exist_ok=True)
        if uid is not None and os.geteuid() == 0:
            os.chown(root, uid, uid, follow_symlinks=False)
        private.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.root = root
        self.private = private

    def read(self, path: str, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """The content of a file. Raises `RefusedError` (`bad_path`, `not_found`, `bad_file`, `too_large`)."""
        name = _checked(path)
        try:
            return readback(self.root, name, max_bytes)
        except ReadbackError as error:
            reasons = {
                "missing": Reason.NOT_FOUND,
                "name": Reason.BAD_PATH,
                "symlink": Reason.BAD_PATH,
                "too_large": Reason.TOO_LARGE,
            }
            raise RefusedError(reasons.get(error.reason, Reason.BAD_FILE), str(error)) from error

    def read_text(self, path: str, max_bytes: int = MAX_FILE_BYTES) -> str:
        """The content of a UTF-8 file. Raises `RefusedError` (also `not_text`)."""
        data = self.read(path, max_bytes)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise RefusedError(Reason.NOT_TEXT, f"{path!r} is {why_not_text(data, error)}") from error

    def is_folder(self, path: str) -> bool:
        """Whether a path is a folder, reached without a link. Raises `RefusedError` (`bad_path`)."""
        *above, leaf = _checked(path.rstrip("/")).split("/")
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(_opened(os.open(self.root, _DIRECTORY)))
            try:
                for part in [*above, leaf]:
                    folder = stack.enter_context(_opened(os.open(part, _DIRECTORY, dir_fd=folder)))
            except OSError:
                return False
        return True

    def notebook(self) -> str:
        """What the researcher keeps in `notebook.md`; "" when there is nothing to read."""
        try:
            return self.read_text(NOTEBOOK)
        except RefusedError:
            return ""

    def keep(self, name: str, text: str) -> None:
        """Put `text` into the private directory, whole or not at all."""
        part = self.private / f".{name}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(self.private / name)

    def kept(self, name: str) -> str:
        """What `keep` put there; "" when there is nothing."""
        try:
            return (self.private / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""

    def write_text(self, path: str, text: str) -> int:
        """Put `text` into a file, making folders on the way; its bytes. Raises `RefusedError`."""
        name = _checked(path)
        data = _encode(path, text)
        if len(data) > MAX_FILE_BYTES:
            raise RefusedError(Reason.TOO_LARGE, f"{path!r}: {len(data)} bytes, at most {MAX_FILE_BYTES} are allowed")
        if name.split("/")[0] == FORUM_FOLDER:
            raise RefusedError(Reason.READ_ONLY, f"{FORUM_FOLDER}/ shows the forum and is read-only; use forum_post")
        try:
            self._write(name, data)
        except OSError as error:
            raise RefusedError(Reason.BAD_PATH, f"{path!r} cannot be written: {error.strerror}") from error
        return len(data)

    def listing(self, folder: str = "", most: int = MAX_LISTED) -> list[dict[str, object]]:
        """Regular files below `folder` ("" is the workspace): `path` and `bytes`, by path, hidden ones last."""
        prefix = f"{folder}/" if folder else ""
        found = sorted((_hidden(path), path, size) for path, size in self._files() if path.startswith(prefix))
        return [{"path": path, "bytes": size} for _, path, size in found[:most]]

    def used_bytes(self) -> int:
        """Bytes of the files that can be seen: a command may make folders deeper, and more, than are looked at."""
        return sum(size for _, size in self._files())

    def _files(self) -> Iterator[tuple[str, int]]:
        for found in Walk(self.root, MAX_ENTRIES):
            if found.regular:
                yield os.fsencode(found.path).decode("utf-8", "replace"), found.bytes

    def _write(self, name: str, data: bytes) -> None:
        *folders, leaf = name.split("/")
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(_opened(os.open(self.root, _DIRECTORY)))
            owner = os.fstat(folder)
            for part in folders:
                folder = stack.enter_context(_opened(_enter(folder, part, owner)))
            temporary = f".{os.urandom(6).hex()}"
            descriptor = os.open(temporary, _CREATE, 0o644, dir_fd=folder)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                _hand_over(descriptor, owner)
            try:
                os.rename(temporary, leaf, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError:
                os.unlink(temporary, dir_fd=folder)
                raise


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _checked(path: str) -> str:
    try:
        return str(safe_relative(path.removeprefix("/ws/")))
    except ObjectError as error:
        raise RefusedError(Reason.BAD_PATH, f"{error}; give a path inside the workspace") from error


def _encode(path: str, text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RefusedError(Reason.NOT_TEXT, f"{path!r}: the content is not valid Unicode text") from error


@contextlib.contextmanager
def _opened(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _enter(folder: int, part: str, owner: os.stat_result) -> int:
    """Open the folder `part` below an open one, making it; never through a link."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(part, 0o755, dir_fd=folder)
    descriptor = os.open(part, _DIRECTORY, dir_fd=folder)
    _hand_over(descriptor, owner)
    return descriptor


def _hand_over(descriptor: int, owner: os.stat_result) -> None:
    """Root works for the sandbox's uid: what it makes in the workspace belongs to the workspace's owner."""
    if os.geteuid() == 0:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
