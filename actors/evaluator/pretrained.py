"""Pretrained models of a generated world: of the public one in the node cache that all campaigns of a machine share, of
a campaign's secret one in a private folder of its own.

A public model depends on the domain, its size, the world seed and the source that makes it; that is its folder's name,
so that changed source never finds an old model. No secret and no truth is in it. Folders appear in full or not at all.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

from actors.evaluator.jobs import Sizes, pretrain_step
from actors.evaluator.lease_client import Joiner, LeaseClient, LeaseSpec
from actors.evaluator.models import Which
from actors.evaluator.result_store import ResultStore, Usage
from cluster.names import BASELINES_ACCOUNT
from cluster.trees import remove_tree
from gpu_pool.leases import Job
from gpu_pool.weak_to_strong.domains import Domain, prepare_corpus, write_pretrain_inputs
from gpu_pool.weak_to_strong.tasks.artefacts import code_version

_SOURCES = tuple(f"gpu_pool.weak_to_strong.{name}" for name in ("pretrain", "items", "formats", "domains", "models"))
"""All that decides the corpus and the weights; methods and trainer may change without pretraining again."""
_FILES = ("config.json", "model.safetensors", "tokenizer.json", "prompt.json")


class Pretrained:
    """The strong and the weak model of one world, each in a folder of `home`."""

    def __init__(
        self, domain: Domain, home: Path, lease_client: LeaseClient, result_store: ResultStore, sizes: Sizes
    ) -> None:
        self._domain = domain
        self._home = home
        self._lease_client = lease_client
        self._results = result_store
        self._sizes = sizes
        self._join = Joiner()
        self._corpus_lock = asyncio.Lock()
        self._corpus: Any = None

    def folder(self, which: Which) -> Path:
        """Where the model lies once it is there."""
        return self._home / which

    async def model(self, which: Which) -> Path:
        """The model's folder, pretrained if the cache lacks it. Raises `WorkError`, `RefusedError`."""
        return await self._join.once(which, lambda: self._model(which))

    async def _model(self, which: Which) -> Path:
        target = self.folder(which)
        key = f"model/{self._home.name}/{which}"
        cached = all((target / name).is_file() for name in _FILES)
        usage = Usage((), 0, "A", "") if cached else await self._pretrain(which, key, target)
        digest = hashlib.sha256((target / "model.safetensors").read_bytes()).hexdigest()
        body = {"sha256": digest, "folder": str(target), "cached": cached, **usage.to_dict()}
        self._results.put(key, body, body)
        return target

    async def _pretrain(self, which: Which, key: str, target: Path) -> Usage:
        with self._lease_client.files(key) as folder:
            params = await self._inputs(which, folder)
            seconds = self._sizes.pretrain_seconds
            order = LeaseSpec(
                label=key,
                account=BASELINES_ACCOUNT,
                kind="baseline",
                gpus=self._sizes.gpus,
                seconds=seconds + self._sizes.slack_seconds,
                memory_bytes=self._sizes.memory_bytes,
                job=Job((pretrain_step(folder, params, seconds),)),
            )
            result = await self._lease_client.run(order)
            outputs = result.step("pretrain").outputs
            sources = {name: Path(outputs.get(name, folder / name)) for name in _FILES}
            _install(sources, target)
        return Usage.of([result])

    async def _inputs(self, which: Which, folder: Path) -> dict[str, Any]:
        """Write what pretraining reads; the corpus is generated once for both models."""
        async with self._corpus_lock:
            if self._corpus is None:
                self._corpus = (await asyncio.to_thread(prepare_corpus, self._domain))["tokens"]
        return await asyncio.to_thread(write_pretrain_inputs, self._domain, which, folder, self._corpus)


def public_home(domain: Domain, world_seed: int, cache: Path) -> Path:
    """Where the models of a public world lie; `cache` is the directory that sandboxes see read-only."""
    return cache / f"{domain.name}-{domain.spec.size}-{world_seed}-{code_version(*_SOURCES)}"


def _install(sources: dict[str, Path], target: Path) -> None:
    """Copy a finished model into the cache in one step; whoever came first wins."""
    for folder in (target.parent.parent, target.parent):
        if not folder.exists():
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o755)  # sandboxes read models through a bind of the cache, as another user
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    temporary.chmod(0o755)
    for name, source in sources.items():
        shutil.copyfile(source, temporary / name)
        (temporary / name).chmod(0o644)
    try:
        temporary.rename(target)
    except OSError:
        remove_tree(temporary)
        if not all((target / name).is_file() for name in _FILES):
            raise
