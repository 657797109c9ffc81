"""The errors of the sandbox package, all below `AarError`."""

from __future__ import annotations

from cluster.errors import AarError


class SandboxError(AarError):
    """A sandbox could not be described, built or taken down; the text says which step failed and why."""


class SpecError(SandboxError):
    """A `SandboxSpec` that no sandbox can honour: a relative path, a negative limit, an empty command."""


class ReadbackError(SandboxError):
    """A file that untrusted code left behind was refused.

    `reason` is one of `name`, `missing`, `denied`, `symlink`, `not_regular`, `hardlink`, `too_large`, `io`.
    """

    def __init__(self, reason: str, name: str, message: str) -> None:
        super().__init__(f"{name!r}: {message}")
        self.reason = reason
        self.name = name
        self.message = message

    def __reduce__(self) -> tuple[type[ReadbackError], tuple[str, str, str]]:
        return (type(self), (self.reason, self.name, self.message))
