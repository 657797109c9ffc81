"""Several seeds of a published method at once: what they train alike is one stack, everything else is done one by one.

The `train(run)` of each seed has a thread of its own, and one thread runs at a time: until it asks for a training that
a stack may do, or is done. When all have stopped, the trainings that can be stacked are done together; each thread then
goes on in its turn, and does by itself what was not.

Promises: a seed gives what it gives alone, within rounding, and has its own error. A stack that fails has changed
nothing: its seeds train alone, and each meets its own error. No thread is left behind.

For methods of the registry alone. They keep nothing outside of their run, draw from no global stream, and change a
model by training it, nothing else; a file of somebody's own may do all of that.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from gpu_pool.weak_to_strong.errors import W2SError
from gpu_pool.weak_to_strong.models import LabelModel
from gpu_pool.weak_to_strong.run import MethodRun
from gpu_pool.weak_to_strong.student import Student
from gpu_pool.weak_to_strong.tokens import TokenTable
from gpu_pool.weak_to_strong.trainer import Job, Progress, TrainReport, finetune_many
from gpu_pool.weak_to_strong.training.jobs import MOST, joins, pays

Train = Callable[[Any], Student]
MEMORY = 1 << 29
"""Bytes that the seeds which run at once may hold: each up to `MOST` models, and the states of all texts at one layer.
"""

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
    held = MOST * sum(p.nbytes for p in model.parameters()) + 4 * model.width * int(tokens.lengths.sum())
    return max(1, min(MOST, MEMORY // held))


def train_alone(train: Train, run: MethodRun, aside: Callable[[], float]) -> Trained:
    """The method on one run; `aside()` are the seconds so far that do not count. Its exception is the result."""
    start, before = time.monotonic(), aside()
    result: Student | Exception
    try:
        result = train(run)
    except Exception as error:  # noqa: BLE001  # whatever the method's own code raises
        result = error
    return Trained(result, time.monotonic() - start - (aside() - before))


def train_seeds(
    train: Train, runs: Sequence[MethodRun], aside: Callable[[], float]
) -> Generator[tuple[int, Trained], None, None]:
    """The method on each of `runs`, which differ in the seed and have no deadline: its number with how it ended.

    Each is given as soon as it is known: of seeds that have nothing to stack, before the next begins. To close the
    iterator ends those that are not. An exception of a seed is its result; what is no Exception (an interrupt, an exit)
    ends all of them and is raised.
    """
    with contextlib.ExitStack() as stack:
        seeds = [_Seed(train, run, aside) for run in runs]
        for seed in seeds:
            stack.callback(seed.stop)
        left = list(enumerate(seeds))
        while left:
            for number, seed in list(left):
                seed.go_on()
                if seed.result is not None:
                    left.remove((number, seed))
                    yield number, Trained(seed.result, seed.seconds)
            _train_alike([seed.asked for _, seed in left if seed.asked is not None])


class _Stopped(SystemExit):
    """Ends the thread of a seed that is not to go on; no method catches it by `Exception`, and no thread prints it."""


@dataclass(slots=True)
class _Asked:
    """The jobs that a seed has asked for, and the reports of those that are done."""

    seed: _Seed
    jobs: Sequence[Job]
    on_progress: Progress | None
    reports: dict[Job, TrainReport] = field(default_factory=dict)


class _Seed:
    """One seed's thread. It runs inside `go_on` alone, which ends when the seed has asked for jobs or has a result."""

    def __init__(self, train: Train, run: MethodRun, aside: Callable[[], float]) -> None:
        self.result: Student | Exception | None = None
        self.asked: _Asked | None = None
        self.seconds = 0.0
        self._aside = aside
        self._exit: BaseException | None = None
        self._turn, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._stopped = False
        self._thread = threading.Thread(
            target=contextvars.copy_context().run,
            args=(self._work, train, run, torch.get_num_threads()),
            name=f"seed {run.seed}",
            daemon=True,  # `stop` waits for it; a second interrupt still ends the process
        )
        run.trainer = self._train

    def go_on(self) -> None:
        """Let the thread run until it waits again or is done; raises what ended it if that is no Exception."""
        start, before = time.monotonic(), self._aside()
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._turn.release()
        while not self._back.acquire(timeout=LISTEN_S):
            pass
        self.seconds += time.monotonic() - start - (self._aside() - before)
        if self._exit is not None:
            raise self._exit

    def stop(self) -> None:
        """End the thread where it waits, or at the next step of its training that it reports, and wait for it."""
        self._stopped = True
        self._turn.release()
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self, train: Train, run: MethodRun, threads: int) -> None:
        torch.set_num_threads(threads)  # a setting of each thread
        try:
            self.result = train(run)
        except Exception as error:  # noqa: BLE001  # whatever the method's own code raises
            self.result = error
        except BaseException as error:  # noqa: BLE001  # raised by `go_on`, where somebody hears it
            self._exit = error
        self._back.release()

    def _train(
        self, jobs: Sequence[Job], *, on_progress: Progress | None = None, deadline: float | None = None
    ) -> list[TrainReport]:
        """The run's trainer. What no stack can do is done at once."""
        self._heed()

        def heeding(step: int, steps: int, loss: float) -> None:
            self._heed()
            if on_progress is not None:
                on_progress(step, steps, loss)

        if not any(pays(job) > 1 for job in jobs):
            return finetune_many(jobs, on_progress=heeding, deadline=deadline)
        self.asked = asked = _Asked(self, jobs, on_progress)
        self._back.release()
        self._turn.acquire()
        self._heed()
        self.asked = None
        left = [job for job in jobs if job not in asked.reports]
        asked.reports.update(zip(left, finetune_many(left, on_progress=heeding, deadline=deadline), strict=True))
        return [asked.reports[job] for job in jobs]

    def _heed(self) -> None:
        if self._stopped:
            raise _Stopped


def _train_alike(asked: Sequence[_Asked]) -> None:
    """Do the jobs that two or more seeds have alike, and note their reports."""
    owners = {job: one for one in asked for job in one.jobs}
    for block in _blocks(owners):
        own = [owners[job] for job in block]
        if len(set(map(id, own))) < 2:
            continue
        told = _to_all({id(one): one.on_progress for one in own if one.on_progress is not None}.values())
        # A loss that is not finite, say: models are written at a stack's end, so that each seed now trains its own.
        with contextlib.suppress(W2SError):
            for one, job, report in zip(own, block, finetune_many(block, on_progress=told), strict=True):
                one.reports[job] = report
                one.seed.seconds += report.seconds


def _to_all(listeners: Collection[Progress]) -> Progress:
    def told(step: int, steps: int, loss: float) -> None:
        for listener in listeners:
            listener(step, steps, loss)

    return told


def _blocks(jobs: Iterable[Job]) -> list[list[Job]]:
    """The jobs that may be stacked, each in the first block that it fits: those that are alike need not be neighbours,
    as they must be for `finetune_many`, since seeds may ask for different numbers of them.
    """
    blocks: list[list[Job]] = []
    for job in jobs:
        block = next((block for block in blocks if joins(job, block)), None)
        if block is None:
            blocks.append([job])
        else:
            block.append(job)
    return blocks
