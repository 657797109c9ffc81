"""Ray's environment, set explicitly before Ray is imported: Ray reads it then.

Ray 2.60 chooses differently in `ray.init`, `ray start` and `ray job` when nothing is said (a local `ray.init` turns
token authentication on, the others only when a token exists already). Here `RAY_AUTH_MODE` is always set: `token`,
unless the user chose otherwise. The token file is made with mode 0600.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def set_authentication() -> None:
    """Choose token authentication in this process's environment and make a token if none is there.

    Also turns usage statistics off, and hides a node's GPUs from actors that asked for none (Ray 2.60 does so only when
    told to). What the user has set stays.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    if os.environ.setdefault("RAY_AUTH_MODE", "token") != "token":
        return
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if path.stat().st_uid == os.getuid():
            path.chmod(0o600)
        return
    with os.fdopen(fd, "w") as file:
        file.write(secrets.token_hex(32))
