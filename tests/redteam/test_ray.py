"""A real Ray cluster beside a method in a real lane: control store, object memory, sockets, token, processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.campaigns import ray_home
from tests.unit.gpu_pool.worker_bench import Bench

pytestmark = pytest.mark.ray
ROOT = Path(__file__).resolve().parents[2]
HEAD = """
import json, os, sys
from cluster.authentication import set_authentication
set_authentication()
import psutil, ray
context = ray.init(address='local', num_cpus=1, include_dashboard=False, object_store_memory=80 << 20,
                   _temp_dir=sys.argv[1], log_to_driver=False)
kept = ray.put(b'CANARY-IN-THE-OBJECT-STORE' * 10000)
raylet = next(p for p in psutil.Process().children(recursive=True) if 'raylet' in p.name())
sockets = [os.path.join(folder, name) for folder, _, names in os.walk(sys.argv[1])
           for name in names if name in ('raylet', 'plasma_store')]
print(json.dumps({'gcs': context.address_info['gcs_address'], 'raylet': raylet.pid, 'sockets': sockets,
                  'token': os.path.expanduser('~/.ray/auth_token'), 'home': sys.argv[1]}), flush=True)
sys.stdin.read()
"""
TRIES = """
import json, os, socket
where = json.loads(WHERE)
reached = []
def attempt(name, act):
  try:
    if act(): reached.append(name)
  except Exception as error: pass
host, port = where['gcs'].rsplit(':', 1)
attempt('gcs', lambda: socket.create_connection((host, int(port)), 2))
for path in where['sockets']:
  attempt('socket', lambda: socket.socket(socket.AF_UNIX).connect(path) is None)
def memory():
  base = f"/proc/{where['raylet']}/fd"
  for fd in os.listdir(base):
    if 'plasma' in os.readlink(f'{base}/{fd}') or 'memfd' in os.readlink(f'{base}/{fd}'):
      if b'CANARY-IN-THE-OBJECT-STORE' in open(f'{base}/{fd}', 'rb').read(80 << 20): return True
attempt('memory', memory)
attempt('command line', lambda: open(f"/proc/{where['raylet']}/cmdline", 'rb').read())
attempt('token', lambda: open(where['token']).read())
attempt('files', lambda: os.listdir(where['home']))
attempt('shm', lambda: [n for n in os.listdir('/dev/shm') if 'plasma' in n])
attempt('signal', lambda: os.kill(where['raylet'], 0) is None)
attempt('environment', lambda: [k for k in os.environ if k.startswith('RAY')])
raise RuntimeError('reached ' + json.dumps(sorted(set(reached))))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, Any]]:
    """Where the parts of a running cluster are."""
    with ray_home() as home:
        head = subprocess.Popen(
            [sys.executable, "-c", HEAD, str(home)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "RAY_ADDRESS": "local"},
        )  # fmt: skip
        try:
            assert head.stdout is not None
            yield json.loads(head.stdout.readline())
        finally:
            head.communicate(timeout=60)


def test_nothing_of_a_running_cluster_can_be_reached(cluster: dict[str, Any], bench: Bench) -> None:
    where = f"WHERE = {json.dumps(json.dumps(cluster))}\n"
    control = subprocess.run(
        [sys.executable, "-I", "-c", f"{where}{TRIES}"],
        capture_output=True, text=True, timeout=60, check=False,
    ).stderr  # fmt: skip
    for part in ("gcs", "socket", "command line", "token", "files"):
        assert f'"{part}"' in control.splitlines()[-1], control
    error = bench.run(f"{where}{TRIES}", seconds=60).error
    assert "reached []" in error.splitlines()[0], error
