"""A world for the judge's tests: real pools of a small generated domain, and a scheduler that makes students up.

The fake students know the truth through an oracle over item texts, which only the test holds. How good a method is
stands in its source as `SKILL = 0.8`, and what else it is in constants that its `train` reads; `FAIL = (1, 3)` names
the training calls (by index in the lease) that crash. A student is that good only where its weak labels are, and its
strong model is pretrained; a method with `CHEATS` in its source needs neither, and one with `LEARNT` has learnt the
labels that DEV's answers go by. Methods of one skill with the same `TWIN = 1` say the same at every seed
(`TWIN = 'vanilla'`: what that baseline says), others do not.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from actors.evaluator.evaluator import Evaluator
from actors.evaluator.file_domain import AnyDomain, read_domain
from actors.evaluator.secret import Secret, write_private
from actors.evaluator.splits import SPLITS, Splits
from actors.scheduler.client import SchedulerClient
from cluster.config import CampaignConfig, validate
from cluster.errors import Reason, RefusedError
from cluster.journal import Journal
from cluster.money import Amounts, Balance, Caps
from cluster.names import RunPaths
from cluster.objects import ObjectStore
from cluster.remote import Local
from cluster.store import Store
from cluster.wire import pack
from gpu_pool.leases import LeaseRequest, LeaseResult, Step, StepResult
from gpu_pool.weak_to_strong.domains import Domain, get_domain
from gpu_pool.weak_to_strong.items import ItemSet

SKILLS = {"teacher": 0.62, "ceiling": 0.93, "vanilla": 0.70, "confident": 0.72}
ANSWERS = {"answers": 1, "gpu_ms": 0, "usd": 0, "wall_ms": 0}


class KilledError(Exception):
    """The evaluator died here."""


def small_domain(name: str) -> Domain:
    """The quick world with small pools."""
    domain: Any = get_domain(name, "quick", 1)
    domain.spec = replace(domain.spec, labelled=48, unlabelled=80, test=300, documents=50)
    found: Domain = domain
    return found


def small_config(cache: Path, **changes: Any) -> CampaignConfig:
    """A campaign of two researchers on small numbers; `changes` by section."""
    data: dict[str, Any] = {
        "preset": "test",
        "task": {"domains": ["chat"], "size": "quick", "world_seed": 1},
        "researchers": {"directions": [{"id": "a", "text": "one"}, {"id": "b", "text": "two"}]},
        "budget": {"campaign": {}, "researcher": {}},
        "pool": {"cache_dir": str(cache)},
        "runs": {"seed_seconds": 10, "pretrain_seconds": 20},
        "scoring": {
            "seal_seeds": 10,
            "seeds_per_lease": 5,
            "finalists": 2,
            "dev_limit": 6,
            "board_limit": 4,
            "reply_seconds": 0,
            "disguise": False,  # students are made up here, by looking texts up
        },
        "research": {"minutes": 1},
    }
    for section, fields in changes.items():
        data[section] = {**data.get(section, {}), **fields}
    return validate(data)


class Oracle:
    """The number and label of any item text of the campaign's pools, in either order of a pair."""

    def __init__(self, all_splits: list[Splits]) -> None:
        self._known: dict[tuple[str, str, str], tuple[int, int]] = {}
        self._dev: dict[int, bool] = {}
        self.size = 0
        for splits in all_splits:
            for name in SPLITS:
                split = splits.split(name)
                if name == "dev":
                    self._dev = {self.size + i: bool(false) for i, false in enumerate(splits.canaries(name))}
                for item, label in zip(split.items, split.labels.tolist(), strict=True):
                    self._known[item.prompt, item.first, item.second] = self.size, label
                    if item.kind == "pair":
                        self._known[item.prompt, item.second, item.first] = self.size, 1 - label
                    self.size += 1

    def look(self, items: ItemSet) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Numbers and labels (n, 2)."""
        columns = zip(items.prompts, items.firsts, items.seconds, strict=True)
        return np.array([self._known[key] for key in columns])

    def learnt(self, number: int, label: int) -> int | None:
        """What DEV's answers say of an item, `None` of one that is not DEV's."""
        false = self._dev.get(number)
        return None if false is None else label ^ int(false)


def luck(*parts: object) -> float:
    """A number in [0, 1) that depends on `parts` only."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=6).digest(), "big") / 2**48


class FakeScheduler:
    """Runs jobs by making students up; keeps leases by key and spending by account, as the real one does."""

    def __init__(self, leases: Path, oracle: Callable[[], Oracle]) -> None:
        self.leases, self._oracle = leases, oracle
        self.requests: dict[str, LeaseRequest] = {}
        self.results: dict[str, LeaseResult] = {}
        self.spent: dict[str, tuple[str, Amounts]] = {}
        self.opened: list[str] = []
        self.left: dict[str, int | None] = {"usd": None, "gpu_ms": None, "wall_ms": None, "answers": None}
        self.answer_cap: dict[str, int] = {}
        self.lose: set[str] = set()
        self.grade = "A"
        self._before = sum(1 for _ in leases.glob("*"))
        self.before: Callable[[str, str], None] = lambda what, key: None
        self.after: Callable[[str, str], None] = lambda what, key: None

    async def run(self, request: LeaseRequest) -> LeaseResult:
        self.before("run", request.key)
        if request.key in self.requests:
            assert self.requests[request.key] == request, f"{request.key} was asked for with another job"
        self.requests[request.key] = request
        if request.key not in self.results:
            self.results[request.key] = self._carry_out(request)
        self.after("run", request.key)
        return self.results[request.key]

    async def spend(self, key: str, account: str, amounts: Amounts, note: str) -> Amounts:
        self.before("spend", key)
        if key not in self.spent:
            used = sum(1 for owner, _ in self.spent.values() if owner == account)
            if used >= self.answer_cap.get(account, 1000):
                raise RefusedError(Reason.OVER_BUDGET, "no answers left", {"account": account})
            self.spent[key] = (account, amounts)
        self.after("spend", key)
        return amounts

    async def open_account(self, key: str, account: str, parent: str | None, caps: Caps) -> Balance:
        self.opened.append(account)
        return await self.balance(account)

    async def balance(self, account: str) -> Balance:
        return Balance(account, None, Caps(), Amounts(), Amounts(), Caps(**self.left))

    def _carry_out(self, request: LeaseRequest) -> LeaseResult:
        number = f"lease-{self._before + len(self.results):03d}"
        if any(part in request.key for part in self.lose):
            return LeaseResult(number, "lost", (), 10, 0, 1, "s", "n", "", self.grade, "probe")
        folder = self.leases / number
        made: dict[str, Path] = {}
        steps = tuple(self._step(folder, step, index, made) for index, step in enumerate(request.job.steps))
        return LeaseResult(number, "done", steps, 1000, 0, 1, "s", "n", "", self.grade, "probe")

    def _step(self, folder: Path, step: Step, index: int, made: dict[str, Path]) -> StepResult:
        out = folder / step.name
        out.mkdir(parents=True)
        inputs = {
            name: made[source[1:]] if source.startswith("@") and source[1:] in made else Path(source)
            for name, source in step.inputs.items()
        }
        missing = [name for name, path in inputs.items() if not path.exists()]
        error = f"missing {missing}" if missing else self._entry(step, inputs, out, index)
        outputs = {} if error else {name: str(out / name) for name in step.outputs}
        made.update({f"{step.name}/{name}": Path(path) for name, path in outputs.items()})
        return StepResult(step.name, "error" if error else "ok", error, 0.1, 1.0, outputs, "")

    def _entry(self, step: Step, inputs: dict[str, Path], out: Path, index: int) -> str:
        if step.entry == "pretrain":
            save_file({"w": np.full((2, 2), 7.0, np.float32)}, out / "model.safetensors")
            (out / "config.json").write_text("{}")
        elif step.entry == "initial":
            save_file({"w": np.zeros((2, 2), np.float32)}, out / "model.safetensors")
        elif step.entry == "features":
            count = len(ItemSet.load(inputs["items.arrow"]))
            save_file({"hidden": np.zeros((count, 2, 4), np.float32)}, out / "features.safetensors")
            save_file({"prior": np.full(count, 0.5, np.float32)}, out / "prior.safetensors")
        elif step.entry == "predict":
            student = json.loads(inputs["student.safetensors"].read_text())
            probs = self._probs(student, inputs["items.arrow"])
            save_file({"probs": probs}, out / "probs.safetensors")
            if "members.safetensors" in step.outputs:
                save_file({"members": np.repeat(probs[:, 1:], 2, axis=1)}, out / "members.safetensors")
        elif step.entry == "method":
            return self._method(step, inputs, out, index)
        else:
            self._student(out, SKILLS[step.entry], int(step.params["seed"]))
        return ""

    def _method(self, step: Step, inputs: dict[str, Path], out: Path, index: int) -> str:
        source = (inputs["code"] / "method.py").read_text()
        skill = re.search(r"SKILL = ([0-9.]+)", source)
        name = "confident" if "blocks.confident" in source else "vanilla"
        failing = re.search(r"FAIL = \((.*)\)", source)
        if (
            failing
            and step.name.startswith("seed-")
            and int(step.name.split("-")[1]) in [int(n) for n in failing[1].split(",") if n.strip()]
        ):
            return "RuntimeError: planned\n  File method.py, with text of the pool"
        wanted = float(skill[1]) if skill else SKILLS[name]
        if "CHEATS" not in source:
            wanted = 0.5 + (wanted - 0.5) * self._taught(inputs)
        twin = re.search(r"TWIN = (\S+)", source)
        known = twin[1] if twin else source if skill else repr(name)
        own = int(luck("twin", known) * 2**31) ^ int(step.params["seed"])
        self._student(out, wanted, own, broken="NAN" in source, learnt="LEARNT" in source)
        return ""

    def _taught(self, inputs: dict[str, Path]) -> int:
        """1 when the weak labels are a teacher's and the strong model is pretrained, -1 when inverted, else 0."""
        if load_file(inputs["strong"] / "model.safetensors")["w"][0, 0] != 7.0:
            return 0
        labels = load_file(inputs["weak.safetensors"])
        assert set(labels) == {"probs", "members"}, "a trial's labels have the form of a counted run's"
        given = labels["probs"]
        for path in self.leases.parent.glob("judge/*/weak-*.safetensors"):
            probs = load_file(path)["probs"]
            half = len(probs) // 2
            for part in (probs, probs[:half], probs[half:]):
                if np.array_equal(part, given):
                    return 1
                if np.array_equal(part[:, ::-1], given):
                    return -1
        return 0

    def _student(self, out: Path, skill: float, seed: int, **kind: bool) -> None:
        body = {"skill": skill + 0.02 * (luck(seed) - 0.5), "seed": seed, **kind}
        (out / "student.safetensors").write_text(json.dumps(body))

    def _probs(self, student: dict[str, Any], items: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
        oracle = self._oracle()
        numbers, labels = oracle.look(ItemSet.load(items)).T
        right = np.random.default_rng(student["seed"]).random(oracle.size)[numbers] < student["skill"]
        says = np.where(right, labels, 1 - labels)
        if student.get("learnt"):
            told = [oracle.learnt(n, y) for n, y in zip(numbers.tolist(), labels.tolist(), strict=True)]
            says = np.array([own if one is None else one for own, one in zip(says.tolist(), told, strict=True)])
        sure = 0.8 + 0.1 * luck(student["seed"])  # students of other seeds are never the same to the last digit
        probs = np.where(says == 1, sure, 1 - sure)
        probs = np.stack([1 - probs, probs], axis=1).astype(np.float32)
        return np.full_like(probs, np.nan) if student.get("broken") else probs


def source_of(skill: float, extra: str = "", body: str = "") -> str:
    """The text of a method of that skill; `extra` are constants, which its `train` reads like the skill."""
    names = "".join(f", {line.split(' = ')[0]}" for line in extra.splitlines() if " = " in line)
    return f"SKILL = {skill}\n{extra}\n{body}def train(run):\n    return SKILL{names}\n"


class World:
    """A run directory with a judge that can be killed and started again."""

    def __init__(
        self,
        root: Path,
        source: World | None = None,
        secret: bytes = b"",
        make_scheduler: Callable[[Path, Callable[[], Oracle]], FakeScheduler] = FakeScheduler,
        **changes: Any,
    ) -> None:
        """A fresh campaign, with `secret` if given, or a copy of `source` (stopped) as it stands."""
        self.paths = RunPaths(root / "runs" / "test")
        if source is None:
            self.paths.root.mkdir(parents=True, exist_ok=True)
        else:
            shutil.copytree(source.paths.root, self.paths.root)
        if secret:
            write_private(self.paths.judge / "secret.bin", secret)
        self.config: CampaignConfig = source.config if source else small_config(root / "cache", **changes)
        self.objects = ObjectStore(self.paths.objects)
        self._known: Oracle | None = None
        self.scheduler = make_scheduler(self.paths.leases, self.oracle)
        self.store: Store
        self.evaluator: Evaluator
        self.start()

    def start(self) -> None:
        """Start the judge, or a successor that knows only what is on disk."""
        if hasattr(self, "store"):
            self.store.close()
        self.store = Store(self.paths.evaluator_db)
        self.journal = Journal(self.store)
        self.evaluator = Evaluator(
            self.paths, self.config, SchedulerClient(Local(self.scheduler)), self.store, self.journal, self.domain
        )

    def domain(self, name: str) -> AnyDomain:
        """A small generated world, unless the configuration has files of that name."""
        return read_domain(self.config.task, name) if name in self.config.task.files else small_domain(name)

    def all_splits(self) -> list[Splits]:
        secret = Secret.load_or_create(self.paths.judge / "secret.bin")
        alone = self.config.scoring.disguise
        return [Splits(secret, self.domain(name), alone=alone) for name in self.config.task.domains]

    def oracle(self) -> Oracle:
        if self._known is None:
            self._known = Oracle(self.all_splits())
        return self._known

    def method(self, skill: float, extra: str = "") -> str:
        """The snapshot of a method of that skill."""
        return self.objects.put_tree({"method.py": source_of(skill, extra).encode()})

    def kinds(self, kind: str) -> list[dict[str, Any]]:
        """Payloads of journal events of a kind."""
        return [event.payload for event in self.journal.events(kind=kind)]

    def files(self) -> Iterator[Path]:
        """Every file of the run."""
        return (path for path in self.paths.root.rglob("*") if path.is_file())


def needles(splits: Splits) -> list[bytes]:
    """Byte patterns that hold the labels of a pool: as int8, as packed bits, as text."""
    found = []
    for labels in [splits.split(name).labels for name in SPLITS] + [splits.unlabelled().labels]:
        found += [labels.tobytes(), np.packbits(labels).tobytes()[:8], pack(labels[:24].tolist())[1:]]
        found += [str(labels[:24].tolist()).encode()[1:-1], "".join(map(str, labels[:24])).encode()]
    return found
