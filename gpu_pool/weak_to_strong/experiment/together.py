"""Several seeds of one method at once: what they train alike is trained as one stack, everything else one by one.

The `train(run)` of each seed has a thread of its own, and one thread runs at a time: until it asks for a training that
a stack may do, or is done. When all have stopped, the trainings that can be stacked are done together; each thread then
goes on in its turn, and does by itself what was not.

Promises: a seed gives what it gives alone, within rounding: it has its own import of the method, its own global random
streams (torch, numpy, random), which start from the seed, and its own error. A stack that fails has changed nothing:
its seeds train alone, and each meets its own error. No thread is left behind, however it ends. Only the losses of this
library are stacked: another may keep a state, or draw from a global stream.

A method must not hold a lock that other seeds wait for while it trains. It is not in the main thread, so it sets no
signal handlers.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import random
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gpu_pool.weak_to_strong import losses
from gpu_pool.weak_to_strong.experiment.methods import Imports, MethodFile
from gpu_pool.weak_to_strong.models import LabelModel
from gpu_pool.weak_to_strong.run import MethodRun
from gpu_pool.weak_to_strong.student import Student
from gpu_pool.weak_to_strong.tokens import TokenTable
from gpu_pool.weak_to_strong.trainer import Job, Progress, TrainReport, finetune_many
from gpu_pool.weak_to_strong.training.jobs import MOST, pays, together

MEMORY = 1 << 29
"""Bytes that the seeds which run at once may hold: each a model in full, and the states of all texts at one layer."""

LISTEN_S = 0.5
"""A signal that comes just before a wait does not end it: so often an interrupt is looked for."""


@dataclass(frozen=True, slots=True)
class Trained:
    """How one seed ended, and the seconds of its own: while it ran, and its share of the stacks."""

    result: Student | Exception
    seconds: float


def most_at_once(model: LabelModel, tokens: TokenTable) -> int:
    """How many seeds of a method on `model` and the texts `tokens` may run at once, at least 1.

    A method chooses what it trains, so what pays is decided for each training (`training.jobs.pays`); this keeps to
    `MEMORY`. Only small models are run several at once: larger ones would gain little.
    """
    held = sum(p.nbytes for p in model.parameters()) + 4 * model.width * int(tokens.lengths.sum())
    return max(1, min(MOST, MEMORY // held))


def train_seeds(method: MethodFile, runs: Sequence[MethodRun], aside: Callable[[], float]) -> list[Trained]:
    """The method on each of `runs`, which differ in the seed and have no deadline unless there is one run alone.

    `aside()` are the seconds so far that count for no seed. An exception of a seed is its result; what is no Exception
    (an interrupt, an exit) ends all of them and is raised.
    """
    with contextlib.ExitStack() as stack:
        worlds = [_World(stack.enter_context(method.imports()), run.seed) for run in runs]
        if len(runs) == 1:
            return [_alone(runs[0], worlds[0], aside)]
        seeds = [_Seed(run, world, aside) for run, world in zip(runs, worlds, strict=True)]
        for seed in seeds:
            stack.callback(seed.stop)
        while waiting := [seed for seed in seeds if seed.result is None]:
            for seed in waiting:
                seed.go_on()
            _train_alike([seed.asked for seed in waiting if seed.asked is not None])
        return [Trained(seed.result, seed.seconds) for seed in seeds if seed.result is not None]


def _alone(run: MethodRun, world: _World, aside: Callable[[], float]) -> Trained:
    start, before = time.monotonic(), aside()
    result: Student | Exception
    with world:
        try:
            result = world.imports.load()(run)
        except Exception as error:  # noqa: BLE001  # whatever the method's own code raises
            result = error
    return Trained(result, time.monotonic() - start - (aside() - before))


class _World:
    """A context of what there is once in a process and each seed has for itself: random streams and imports."""

    def __init__(self, imports: Imports, seed: int) -> None:
        self.imports = imports
        self._seed = seed
        self._inside: tuple[Any, ...] | None = None
        self._outside: tuple[Any, ...] = ()

    def __enter__(self) -> None:
        self._outside = _streams()
        if self._inside is None:
            start = self._seed % (1 << 32)
            torch.manual_seed(start)
            np.random.seed(start)
            random.seed(start)
        else:
            _set_streams(*self._inside)
        self.imports.__enter__()

    def __exit__(self, *_: object) -> None:
        self.imports.__exit__()
        self._inside = _streams()
        _set_streams(*self._outside)


def _streams() -> tuple[Any, ...]:
    """The states of the global random streams: torch's on CPU and GPU, numpy's, Python's."""
    gpu = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    return torch.get_rng_state(), gpu, np.random.get_state(), random.getstate()


def _set_streams(cpu: torch.Tensor, gpu: torch.Tensor | None, numpy: Any, python: Any) -> None:
    torch.set_rng_state(cpu)
    if gpu is not None:
        torch.cuda.set_rng_state(gpu)
    np.random.set_state(numpy)
    random.setstate(python)


class _Stopped(SystemExit):
    """Ends the thread of a seed that is not to go on; no method catches it by `Exception`, and no thread prints it."""


@dataclass(slots=True)
class _Asked:
    """The jobs that a seed has asked for, and the reports of those that are done."""

    seed: _Seed
    jobs: Sequence[Job]
    on_progress: Progress | None
    reports: list[TrainReport | None]


class _Seed:
    """One seed's thread. It runs inside `go_on` alone, which ends when the seed has asked for jobs or has a result."""

    def __init__(self, run: MethodRun, world: _World, aside: Callable[[], float]) -> None:
        self.result: Student | Exception | None = None
        self.asked: _Asked | None = None
        self.seconds = 0.0
        self._world = world
        self._aside = aside
        self._exit: BaseException | None = None
        self._turn, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._running = self._stopped = False
        self._thread = threading.Thread(
            target=contextvars.copy_context().run,
            args=(self._work, run, torch.get_num_threads()),
            name=f"seed {run.seed}",
            daemon=True,  # `stop` waits for it; if it hangs, a second interrupt still ends the process
        )
        run.trainer = self._train

    def go_on(self) -> None:
        """Let the thread run until it waits again or is done; raises what ended it if that is no Exception."""
        start, before = time.monotonic(), self._aside()
        with self._world:
            try:
                self._running = True
                if self._thread.ident is None:
                    self._thread.start()
                else:
                    self._turn.release()
                while not self._back.acquire(timeout=LISTEN_S):
                    pass
            except BaseException:  # an interrupt: the thread has to end while its world is still there
                self.stop()
                raise
        self.seconds += time.monotonic() - start - (self._aside() - before)
        if self._exit is not None:
            raise self._exit

    def stop(self) -> None:
        """End the thread, wherever it is, and wait for it."""
        if self._thread.ident is None:
            return
        self._stopped = True
        if self._running:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread.ident), ctypes.py_object(_Stopped))
        self._turn.release()
        self._thread.join()

    def _work(self, run: MethodRun, threads: int) -> None:
        torch.set_num_threads(threads)  # a setting of each thread
        try:
            self.result = self._world.imports.load()(run)
        except Exception as error:  # noqa: BLE001  # whatever the method's own code raises
            self.result = error
        except BaseException as error:  # noqa: BLE001  # raised by `go_on`, where somebody hears it
            self._exit = error
        self._running = False
        self._back.release()

    def _train(
        self, jobs: Sequence[Job], *, on_progress: Progress | None = None, deadline: float | None = None
    ) -> list[TrainReport]:
        """The run's trainer. What no stack can do is done at once; so is what a method's own threads ask for."""
        if self._stopped:
            raise _Stopped
        mine = threading.get_ident() == self._thread.ident
        if not mine or deadline is not None or not any(map(_may_be_stacked, jobs)):
            return finetune_many(jobs, on_progress=on_progress, deadline=deadline)
        self.asked = _Asked(self, jobs, on_progress, [None] * len(jobs))
        self._running = False
        self._back.release()
        self._turn.acquire()
        if self._stopped:
            raise _Stopped
        reports, self.asked = self.asked.reports, None
        left = [job for job, report in zip(jobs, reports, strict=True) if report is None]
        own = iter(finetune_many(left, on_progress=on_progress))
        return [next(own) if report is None else report for report in reports]


def _may_be_stacked(job: Job) -> bool:
    return pays(job) > 1 and getattr(job.config.loss, "__module__", None) == losses.__name__


def _train_alike(asked: Sequence[_Asked]) -> None:
    """Do the jobs that two or more seeds have alike, and note their reports."""
    for block in _blocks(asked):
        jobs = [one.jobs[number] for one, number in block]
        if len({id(one) for one, _ in block}) < 2:
            continue
        told = _to_all({id(one): one.on_progress for one, _ in block if one.on_progress is not None}.values())
        with contextlib.suppress(Exception):  # the models of a stack are written at its end: each seed trains its own
            for (one, number), report in zip(block, finetune_many(jobs, on_progress=told), strict=True):
                one.reports[number] = report
                one.seed.seconds += report.seconds


def _to_all(listeners: Collection[Progress]) -> Progress:
    def told(step: int, steps: int, loss: float) -> None:
        for listener in listeners:
            listener(step, steps, loss)

    return told


def _blocks(asked: Sequence[_Asked]) -> list[list[tuple[_Asked, int]]]:
    """The jobs that may be stacked, each in the first block that it fits, in the order of the seeds."""
    blocks: list[list[tuple[_Asked, int]]] = []
    for one in asked:
        for number, job in enumerate(one.jobs):
            if not _may_be_stacked(job):
                continue
            for block in blocks:
                if len(block) < pays(job) and together([*(other.jobs[at] for other, at in block), job]):
                    block.append((one, number))
                    break
            else:
                blocks.append([(one, number)])
    return blocks
