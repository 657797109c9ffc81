"""Seconds of a whole vanilla run, from the request to the answers, on one CPU thread: warm and cold.

python scripts/bench/vanilla.py
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cluster.start import prepare

prepare()  # before torch and Ray are imported, which ask for a home and a user

import numpy as np
import torch

from cluster.terminal import run_script


def vanilla_inputs(folder: Path) -> None:
    """What a vanilla run on 1,000 chat items reads, with a random-initialised strong model, and 2,000 test items."""
    from safetensors.numpy import save_file

    from gpu_pool.weak_to_strong.domains import get_domain, write_pretrain_inputs
    from gpu_pool.weak_to_strong.methods import path_of
    from gpu_pool.weak_to_strong.pretrain import pretrain_model

    domain = get_domain("chat", "quick")
    params = write_pretrain_inputs(domain, "strong", folder / "raw")
    pretrain_model(folder / "raw", folder / "strong", params | {"steps": 0})
    items, labels = domain.sample(domain.spec.unlabelled, 1)
    items.save(folder / "items.arrow")
    weak = np.where(labels == 1, 0.7, 0.3)
    save_file({"probs": np.stack([1 - weak, weak], 1).astype(np.float32)}, folder / "weak.safetensors")
    (folder / "code").mkdir()
    (folder / "code" / "method.py").write_bytes(path_of("vanilla").read_bytes())
    (folder / "test").mkdir()
    (folder / "test" / "model").symlink_to(folder / "strong")
    domain.sample(domain.spec.test, 2)[0].save(folder / "test" / "items.arrow")
    student = domain.spec.student
    (folder / "params.json").write_text(
        json.dumps({"epochs": student.epochs, "lr": student.lr, "batch": student.batch})
    )


def vanilla_run(folder: Path) -> None:
    """Train on the weak labels, then answer the test items with the student's file."""
    from gpu_pool.weak_to_strong import entrypoints

    torch.set_num_threads(1)
    params = json.loads((folder / "params.json").read_text())
    entrypoints.method(folder, folder / "test", params, lambda *_, **__: None)
    entrypoints.predict(folder / "test", folder / "test", {}, lambda *_, **__: None)


def vanilla() -> None:
    """Print the seconds of a whole vanilla run in a new interpreter, and in a forked child of a warm parent."""
    from gpu_pool.weak_to_strong.warm import warm_up

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vanilla_inputs(folder)
        started, before = time.monotonic(), _children()
        subprocess.run([sys.executable, __file__, name], check=True)
        cold = f"{time.monotonic() - started:.1f} s ({_children() - before:.1f} s of CPU)"
        warm_up()
        started, before = time.monotonic(), _children()
        forked = os.fork()
        if forked == 0:
            vanilla_run(folder)
            os._exit(0)
        if os.waitpid(forked, 0)[1] != 0:
            raise SystemExit("the forked run failed")
        warm = f"{time.monotonic() - started:.1f} s ({_children() - before:.1f} s of CPU)"
        print(f"vanilla run from request to answers, 1,000 items and 2,000 test items: warm {warm}, cold {cold}")


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(run_script(lambda argv: vanilla_run(Path(argv[0])) if argv else vanilla()))
