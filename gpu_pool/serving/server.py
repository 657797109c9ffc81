"""One model server for the time of a lease: started, watched, restarted, stopped when nobody uses it.

Promises:
- `base_url` and `token` are known before the first process starts and stay the same through restarts.
- A server is `ready` only after a health check; one that stops answering them is killed and started again, as the
  restart policy allows.
- When `run` has returned, or was cancelled, no process of the server is alive; when this process dies, neither.
- All output of all its processes stands in `server.log` of the lease's directory.
"""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from cluster.sandbox import Sandboxed, SandboxError, spawn
from gpu_pool.scratch import Scratch
from gpu_pool.serving.command import SOCKET, ServeError, ServerSpec, bare_command, sandbox
from gpu_pool.serving.health import health_fault
from gpu_pool.serving.relay import Relay
from gpu_pool.serving.restarts import RestartPolicy
from gpu_pool.serving.state import EndReason, Phase, ServerEnd, ServerState
from gpu_pool.uncontained import Uncontained

LOG_NAME = "server.log"
TAIL_BYTES = 2000


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds: between looks, between health checks, until one counts as failed; `misses` in a row end a process."""

    look_s: float = 0.2
    check_s: float = 5.0
    patience_s: float = 20.0
    misses: int = 3


class ModelServer:
    """Use from one event loop: `run` once; `state` and `stop` at any time."""

    def __init__(
        self, spec: ServerSpec, directory: Path, timing: Timing | None = None, policy: RestartPolicy | None = None
    ) -> None:
        """`directory` keeps the log."""
        self._spec = spec
        self._log = directory / LOG_NAME
        self._timing = timing or Timing()
        self._policy = policy or RestartPolicy()
        self._scratch = Scratch()
        self._run_dir = self._scratch.folder("run")
        self._socket = self._run_dir / SOCKET
        self._relay = Relay(self._socket)
        self._token = secrets.token_urlsafe(32)
        self._stopping = asyncio.Event()
        self.state = ServerState(Phase.STARTING, "", self._token, spec.name)

    def stop(self) -> None:
        """End soon; `run` then returns."""
        self._stopping.set()

    async def run(self, seconds: float) -> ServerEnd:
        """Serve for at most `seconds`, until idle, stopped, or failed too often."""
        deadline = time.monotonic() + seconds
        try:
            port = await self._relay.open(self._spec.host)
            self.state = replace(self.state, base_url=f"http://{self._spec.host}:{port}")
            reason = await self._keep_running(deadline)
        finally:
            self.state = replace(self.state, phase=Phase.ENDED)
            await self._relay.close()
            self._scratch.remove()
        return ServerEnd(reason, self.state.fault, self._relay.connections, self._relay.answer_bytes, self.state.starts)

    async def _keep_running(self, deadline: float) -> EndReason:
        failures = 0
        while True:
            reason, served_s = await self._one_process(deadline)
            if reason is not None:
                return reason
            failures = self._policy.in_row(failures, served_s)
            pause = self._policy.pause(failures)
            if pause is None:
                return "failed"
            self.state = replace(self.state, phase=Phase.RESTARTING)
            reason = await self._pause(pause, deadline)
            if reason is not None:
                return reason

    async def _one_process(self, deadline: float) -> tuple[EndReason | None, float]:
        """Start a process and watch it to its end: why all ends (`None`: it failed), and seconds of service."""
        began = time.monotonic()
        try:
            launch = await asyncio.to_thread(self._prepare)
            process = launch()  # not in a thread: a cancelled start must not leave a process behind
        except (ServeError, SandboxError, OSError) as error:
            self.state = replace(self.state, starts=self.state.starts + 1, fault=str(error))
            return "failed" if isinstance(error, ServeError) else None, 0.0
        try:
            self.state = replace(self.state, starts=self.state.starts + 1)
            reason = await self._until_ready(process, began, deadline)
            if self.state.phase is not Phase.READY:
                return reason, 0.0
            ready_at = time.monotonic()
            return await self._while_ready(process, deadline), time.monotonic() - ready_at
        finally:
            await asyncio.shield(asyncio.to_thread(process.kill))

    def _prepare(self) -> Callable[[], Sandboxed | Uncontained]:
        """All that may take a while before a process starts; then what starts it (about 40 ms)."""
        self._socket.unlink(missing_ok=True)
        self._spec.home.mkdir(parents=True, exist_ok=True)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        if self._spec.contained:
            box = sandbox(self._spec, self._token, self._run_dir)
            return lambda: self._logged(lambda log: spawn(box, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        argv, env = bare_command(self._spec, self._token, self._run_dir)
        return lambda: self._logged(lambda log: Uncontained(argv, env, output=log))

    def _logged(self, start: Callable[[IO[bytes]], Sandboxed | Uncontained]) -> Sandboxed | Uncontained:
        with self._log.open("ab", buffering=0) as log:
            return start(log)

    async def _until_ready(self, process: Sandboxed | Uncontained, began: float, deadline: float) -> EndReason | None:
        limit = began + self._spec.serve.start_seconds
        while time.monotonic() < limit:
            if self._died(process):
                return None
            if self._socket.exists() and not await health_fault(self._socket, self._timing.patience_s):
                self._relay.touch()
                self.state = replace(self.state, phase=Phase.READY, ready_s=time.monotonic() - began)
                return None
            reason = await self._pause(self._timing.look_s, deadline)
            if reason is not None:
                return reason
        fault = f"not ready after serve.start_seconds = {self._spec.serve.start_seconds:g}"
        self.state = replace(self.state, fault=f"{fault}; {self._tail()}")
        return None

    async def _while_ready(self, process: Sandboxed | Uncontained, deadline: float) -> EndReason | None:
        misses, next_check = 0, time.monotonic() + self._timing.check_s
        while True:
            reason = await self._pause(self._timing.look_s, deadline)
            if reason is not None:
                return reason
            if self._died(process):
                return None
            if self._relay.idle_s() > self._spec.serve.idle_minutes * 60:
                return "idle"
            if time.monotonic() >= next_check:
                fault = await health_fault(self._socket, self._timing.patience_s)
                misses = misses + 1 if fault else 0
                next_check = time.monotonic() + self._timing.check_s
                if misses >= self._timing.misses:
                    self.state = replace(self.state, fault=fault)
                    return None

    def _died(self, process: Sandboxed | Uncontained) -> bool:
        status = process.poll()
        if status is not None:
            why = " (it needed more than serve.memory_gb)" if process.oom_killed() else ""
            self.state = replace(self.state, fault=f"the server ended with status {status}{why}; {self._tail()}")
        return status is not None

    def _tail(self) -> str:
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, self._log.stat().st_size - TAIL_BYTES))
                return f"end of {LOG_NAME}: {file.read().decode(errors='replace').strip()}"
        except OSError as error:
            return f"no {LOG_NAME}: {error.strerror}"

    async def _pause(self, seconds: float, deadline: float) -> EndReason | None:
        """Wait; the reason to end, if one came up."""
        left = deadline - time.monotonic()
        try:
            await asyncio.wait_for(self._stopping.wait(), max(0.0, min(seconds, left)))
            return "stopped"
        except TimeoutError:
            return "time_over" if time.monotonic() >= deadline else None
