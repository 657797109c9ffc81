"""A sandbox worker on a machine without namespaces, forced here: nobody's own process, confined by Landlock."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cluster.sandbox import confinable
from tests.unit.cluster.sandbox_kit import needs_root

pytestmark = [needs_root, pytest.mark.skipif(not confinable(), reason="Landlock 6 (Linux 6.12) is not there")]
ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import asyncio, json, os, sys
from pathlib import Path
from cluster.sandbox import Limits
from gpu_pool.sandbox_worker import SandboxWorker
from gpu_pool.leases import Step
from gpu_pool.library import materialise

home = Path(sys.argv[1])
TRIES = '''
import os, socket
got = []
for path in ("/etc/passwd", "/proc/1/cmdline", HOME + "/secret", "/dev/shm", "/root"):
  try: got.append(os.listdir(path) if os.path.isdir(path) else open(path).read())
  except OSError: pass
for path in (HOME + "/x", "/tmp/x", LIBRARY + "/x", "/dev/shm/x"):
  try: open(path, "w"); got.append(path)
  except OSError: pass
for family in (socket.AF_INET, socket.AF_UNIX):
  try: socket.socket(family); got.append(family)
  except OSError: pass
try: os.kill(os.getppid(), 0); got.append("the zygote")
except OSError: pass
raise RuntimeError(f"got {[g for g in got if g != 'the zygote']}")
'''

async def main():
    (home / "models").mkdir()
    (home / "secret").write_text("secret")
    library = materialise(home / "cache")
    def make():
        return SandboxWorker(library, home / "models", Limits(memory_bytes=1 << 30), os.getuid(), isolation="landlock")
    worker = make()
    await worker.start()
    said = []
    for source, seconds in ((TRIES, 30), ("while True: pass", 1.5), ("x = 1", 30)):
        code = home / f"code-{len(said)}"
        code.mkdir()
        source = source.replace("HOME", repr(str(home))).replace("LIBRARY", repr(str(library)))
        (code / "method.py").write_text(source)
        step = Step("s", "method", {"code": str(code)}, {"seed": 1}, {}, seconds)
        if not worker.alive:
            await worker.close()
            worker = make()
            await worker.start()
        result = await worker.run(step, {"code": code}, seconds, 1, home / f"out-{len(said)}", lambda _: None)
        said.append([result.status, result.error.splitlines()[0]])
    await worker.close()
    print(json.dumps(said))

asyncio.run(main())
"""
SCRIPT = """
base="$1"; venv="$2"; home="$3"; shift 3
mount -t tmpfs none /mnt && mkdir /mnt/base /mnt/venv && mount --bind "$base" /mnt/base &&
mount --bind "$venv" /mnt/venv && mount -t tmpfs none /root && mkdir -p "$base" "$venv" &&
mount --bind /mnt/base "$base" && mount --bind /mnt/venv "$venv" && cd / &&
exec setpriv --reuid 65534 --regid 65534 --clear-groups \\
  env -i PYTHONPATH="$home" PATH=/usr/bin:/bin TMPDIR="$home/tmp" "$@"
"""
"""Puts the interpreter and the environment where nobody may come, even when they lie in root's own home."""


def test_a_method_runs_confined_reaches_nothing_and_ends_on_time() -> None:
    home = Path(tempfile.mkdtemp(prefix="aar-nobody-", dir="/tmp"))
    try:
        for name in ("cluster", "gpu_pool"):
            shutil.copytree(ROOT / name, home / name)
        (home / "tmp").mkdir()
        for path in (home, home / "tmp"):
            path.chmod(0o777)
        words = ["sh", str(Path(sys.base_prefix).resolve()), sys.prefix, str(home), sys.executable, "-B", "-c", PROGRAM]
        done = subprocess.run(["unshare", "--mount", "sh", "-c", SCRIPT, *words, str(home)],
                              capture_output=True, text=True, check=False, timeout=300)  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        tries, endless, plain = json.loads(done.stdout)
        assert tries == ["error", "RuntimeError: got []"]
        assert endless[0] == "timeout"
        assert "defines no function train" in plain[1]
    finally:
        shutil.rmtree(home)
