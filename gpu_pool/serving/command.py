"""From the `serve` section to a sandbox that runs vLLM: interpreter, arguments, environment, files.

The server is trusted code, yet it reads texts that are not. It runs in the same sandbox as a researcher's code:
without a network (it listens on a Unix socket), as an unprivileged user, with the model and the interpreter's files
read-only, and with no secret but its own token.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cluster.config import Serve
from cluster.errors import AarError
from cluster.sandbox import Bind, Limits, SandboxSpec, python_binds

MODULE = "vllm.entrypoints.openai.api_server"
SOCKET = "server.sock"
GPU_SHARE = 0.9
"""Of a GPU's memory; the rest is for CUDA's own needs and for what vLLM does not count."""
CACHE_SHARE = 0.25
"""Of the memory limit, for the cache of keys and values on a machine without a GPU."""
_GIB = 1 << 30
_TOPOLOGY = "/sys/devices/system"
"""vLLM asks for the layout of cores and memory; with a GPU all of /sys is there anyway."""
_MODEL, _HOME, _RUN = "/model", "/ws", "/run/serve"
_ASK_PREFIXES = "import json, sys; print(json.dumps([sys.prefix, sys.base_prefix, sys.base_exec_prefix]))"
_ASK_SECONDS = 120.0


class ServeError(AarError):
    """A model server that cannot be started as it is configured."""


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """One model server.

    `name` is what clients call the model; `host` the address that its relay listens on; `home` a directory that keeps
    compiled code between starts and belongs to the server alone; `gpus` are device minors, empty without a GPU.
    """

    serve: Serve
    name: str
    host: str
    home: Path
    uid: int
    gpus: tuple[int, ...]
    threads: int
    contained: bool = True


def check_model(serve: Serve) -> Path:
    """The model's folder. Raises `ServeError` when it cannot be one."""
    folder = Path(serve.model or "")
    if serve.model is None or not (folder / "config.json").is_file():
        raise ServeError(f"serve.model: {serve.model!r} is no folder with a config.json and weights")
    return folder


def _model_binds(serve: Serve) -> tuple[Bind, ...]:
    """File by file: those of a hub's cache are links to places outside the folder."""
    folder = check_model(serve)
    files = {path.name: path.resolve() for path in sorted(folder.iterdir())}
    locked = [name for name, path in files.items() if not path.stat().st_mode & stat.S_IROTH]
    if locked and os.geteuid() == 0:
        raise ServeError(f"serve.model: the server's user may not read {', '.join(locked)}: chmod -R a+rX {folder}")
    return tuple(Bind(str(path), f"{_MODEL}/{name}") for name, path in files.items())


def interpreter(serve: Serve) -> str:
    """The path of the interpreter that runs the server; links stay, since a virtual environment is one."""
    return sys.executable if serve.python is None else os.path.normpath(serve.python)


def interpreter_prefixes(serve: Serve) -> tuple[Path, ...]:
    """Where the interpreter's files lie. Raises `ServeError` when it does not run."""
    if serve.python is None:
        return (Path(sys.prefix), Path(sys.base_prefix), Path(sys.base_exec_prefix))
    python = interpreter(serve)
    try:
        asked = [python, "-I", "-c", _ASK_PREFIXES]
        done = subprocess.run(asked, capture_output=True, timeout=_ASK_SECONDS, check=True, env={})
        return tuple(Path(prefix) for prefix in json.loads(done.stdout))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise ServeError(f"serve.python: {python} does not run as a Python interpreter: {error}") from error


def arguments(spec: ServerSpec, model: str, socket: str) -> tuple[str, ...]:
    """The server's arguments; `model` and `socket` are paths as it sees them. What the user gives comes last."""
    words = ["-m", MODULE, "--model", model, "--served-model-name", spec.name, "--uds", socket]
    words += ["--disable-access-log-for-endpoints", "/health"]
    if spec.gpus:
        words += ["--gpu-memory-utilization", f"{GPU_SHARE * spec.serve.gpus:.2f}"]
    return (*words, *spec.serve.arguments)


def environment(spec: ServerSpec, token: str, home: str) -> dict[str, str]:
    """All that the server finds in its environment; the token goes here, since a command line is public."""
    env = {
        "HOME": home,
        "PATH": f"{Path(interpreter(spec.serve)).parent}:/usr/local/bin:/usr/bin:/bin",
        "VLLM_API_KEY": token,
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(spec.threads),
    }
    if not spec.gpus:
        env["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, int(spec.serve.memory_gb * CACHE_SHARE)))
        env["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    return env


def sandbox(spec: ServerSpec, token: str, run_dir: Path) -> SandboxSpec:
    """The sandbox of one server process; it makes its socket in `run_dir`. Raises `ServeError`."""
    python = interpreter(spec.serve)
    memory = spec.serve.memory_bytes
    return SandboxSpec(
        argv=(python, *arguments(spec, _MODEL, f"{_RUN}/{SOCKET}")),
        ro_binds=(
            *python_binds(python, interpreter_prefixes(spec.serve)),
            *_model_binds(spec.serve),
            *(() if spec.gpus else (Bind(_TOPOLOGY, _TOPOLOGY),)),
        ),
        rw_binds=(Bind(str(spec.home), _HOME), Bind(str(run_dir), _RUN)),
        env=environment(spec, token, _HOME),
        uid=spec.uid,
        tmp_bytes=2 * _GIB,
        shm_bytes=memory // 2,
        limits=Limits(memory_bytes=memory, processes=1024, file_bytes=32 * _GIB, open_files=65_536),
        gpus=spec.gpus,
        interfaces=True,
    )


def bare_command(spec: ServerSpec, token: str, run_dir: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    """The same without a sandbox, for a user who has none and allowed that: command and environment."""
    argv = arguments(spec, str(check_model(spec.serve)), str(run_dir / SOCKET))
    env = environment(spec, token, str(spec.home))
    if spec.gpus:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, spec.gpus))
    return (interpreter(spec.serve), *argv), env
