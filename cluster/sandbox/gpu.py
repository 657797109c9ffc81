"""NVIDIA devices of a sandbox. A GPU shares the host's kernel driver: with one, a sandbox is not a machine boundary."""

from __future__ import annotations

import re
from pathlib import Path

_DRIVER_LIBRARIES = ("/usr/local/nvidia/lib64", "/usr/local/nvidia/lib", "/usr/lib64-nvidia")


def gpu_minors(dev: Path = Path("/dev")) -> tuple[int, ...]:
    """The minors N of the `/dev/nvidiaN` present here, ascending: the order in which CUDA numbers them."""
    found = (re.fullmatch(r"nvidia(\d+)", entry.name) for entry in dev.iterdir())
    return tuple(sorted(int(match[1]) for match in found if match))


def gpu_args(minors: tuple[int, ...]) -> list[str]:
    """Arguments of bwrap (after `--dev /dev`) that let CUDA use exactly these devices; none without a GPU.

    `nvidia-uvm-tools` is needed by drivers from 570 on, and cuInit fails without a readable /sys.
    """
    if not minors:
        return []
    args = ["--ro-bind", "/sys", "/sys"]
    for device in ("/dev/nvidiactl", "/dev/nvidia-uvm", *(f"/dev/nvidia{minor}" for minor in minors)):
        args += ["--dev-bind", device, device]
    return [*args, "--dev-bind-try", "/dev/nvidia-uvm-tools", "/dev/nvidia-uvm-tools"]


def gpu_env(minors: tuple[int, ...]) -> dict[str, str]:
    """Inside, the bound devices are numbered from 0; without any, CUDA is told that there is none."""
    env = {"CUDA_VISIBLE_DEVICES": ",".join(str(index) for index in range(len(minors)))}
    libraries = [folder for folder in _DRIVER_LIBRARIES if Path(folder).is_dir()]
    if minors and libraries:
        env["LD_LIBRARY_PATH"] = ":".join(libraries)
    return env
