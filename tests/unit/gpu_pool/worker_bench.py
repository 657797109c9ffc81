"""One worker for a module's tests: foreign code in a real sandbox, one step after the other."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from cluster.sandbox import Limits
from gpu_pool.leases import Step, StepResult
from gpu_pool.library import materialise
from gpu_pool.sandbox_worker import SandboxWorker

T = TypeVar("T")


class Bench:
    """One event loop and one worker that is replaced when a test killed it."""

    def __init__(self, root: Path, reusable: bool = False) -> None:
        self.reusable = reusable
        self.loop = asyncio.new_event_loop()
        self.root = root
        self.models = root / "models"
        self.models.mkdir()
        self.library = materialise(root / "cache")
        self.worker: SandboxWorker | None = None

    def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    async def ready(self) -> SandboxWorker:
        if self.worker is None or not self.worker.alive:
            if self.worker is not None:
                await self.worker.close()
            limits = Limits(memory_bytes=1 << 30, processes=128)
            self.worker = SandboxWorker(self.library, self.models, limits, 64001, reusable=self.reusable)
            await self.worker.start()
        return self.worker

    def run(
        self,
        source: str,
        seconds: float = 20,
        outputs: dict[str, int] | None = None,
        beside: dict[str, str] | None = None,
        inputs: dict[str, Path] | None = None,
    ) -> StepResult:
        """Run `source` as method.py, with the files `beside` it and with more `inputs`."""
        code = self.root / "code"
        shutil.rmtree(code, ignore_errors=True)
        code.mkdir()
        for name, text in {"method.py": source, **(beside or {})}.items():
            (code / name).write_text(text)
        given = {"code": code, **(inputs or {})}

        async def go() -> StepResult:
            worker = await self.ready()
            paths = {name: str(path) for name, path in given.items()}
            step = Step("s", "method", paths, {"seed": 1}, outputs or {}, seconds)
            return await worker.run(step, given, seconds, 1, self.root / "out", lambda _: None)

        return self.do(go())

    def close(self) -> None:
        if self.worker is not None:
            self.do(self.worker.close())
        self.loop.close()
