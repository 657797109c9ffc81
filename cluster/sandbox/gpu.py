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
    needed, maybe = gpu_devices(minors)
    args = ["--ro-bind", "/sys", "/sys"]
    for word, devices in (("--dev-bind", needed), ("--dev-bind-try", maybe)):
        args += [part for device in devices for part in (word, device, device)]
    return args


def gpu_devices(minors: tuple[int, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The device files that CUDA needs for these devices, and those that only some drivers have."""
    own = tuple(f"/dev/nvidia{minor}" for minor in minors)
    return (("/dev/nvidiactl", "/dev/nvidia-uvm", *own), ("/dev/nvidia-uvm-tools",)) if minors else ((), ())


def gpu_env(minors: tuple[int, ...]) -> dict[str, str]:
    """Inside, the bound devices are numbered from 0; without any, CUDA is told that there is none."""
    env = {"CUDA_VISIBLE_DEVICES": ",".join(str(index) for index in range(len(minors)))}
    libraries = [folder for folder in _DRIVER_LIBRARIES if Path(folder).is_dir()]
    if minors and libraries:
        env["LD_LIBRARY_PATH"] = ":".join(libraries)
    return env
