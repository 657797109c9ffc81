"""What a node has to offer: GPUs, or cores to act as logical ones."""

from __future__ import annotations

import os
from pathlib import Path


def cpu_name() -> str:
    """The processor's model name, or the architecture when the kernel does not say."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return os.uname().machine


def gpu_name(index: int) -> str:
    """The name of a CUDA device, as the driver gives it."""
    import torch

    return str(torch.cuda.get_device_name(index))
