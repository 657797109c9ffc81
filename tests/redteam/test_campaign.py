"""Attacks on a whole campaign: real judge, scheduler, slot and sandboxes, tiny models that are really trained."""

from __future__ import annotations

import inspect
import json
import os
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from actors.evaluator.actor import EvaluatorActor
from actors.evaluator.blinded_batch import make_blinded_batch
from actors.evaluator.jobs import method_step, predict_step, protocol
from actors.evaluator.scoring_runs import Payer, method_order
from actors.evaluator.splits import SPLITS
from cluster.errors import RefusedError
from cluster.journal import verify_chain
from cluster.wire import pack
from gpu_pool.leases import Lease, LeaseRequest, LeaseResult
from gpu_pool.weak_to_strong.items import ItemSet
from tests.redteam.cheats import SEED_PICKER
from tests.redteam.theatre import Theatre
from tests.unit.actors.evaluator_world import needles

PLAIN = """
def train(run):
    return run.student(run.fit((run.weak > 0.5).astype("float32"), run.config(epochs=1)))
"""


def writing(save: str, extra: str = "") -> str:
    """A method whose student file is written by `save` instead of the library."""
    return (
        f"import os\nfrom gpu_pool.weak_to_strong import Student\n{extra}\n"
        f"def save(self, path):\n    {save}\n"
        "Student.save = save\n"
        "def train(run):\n"
        "    d = run.base.width\n"
        "    return Student.head(run.base, 1, [1.0] * d, 0.0, [0.0] * d, [1.0] * d)\n"
    )


# ---- the interface: what the published client could do


def test_no_call_of_the_evaluator_takes_predictions_labels_or_a_split() -> None:
    actor: Any = EvaluatorActor
    plain = actor.__ray_metadata__.modified_class
    names = [name for name in actor.__ray_metadata__.method_meta.methods if not name.startswith("_")]
    signatures = {name: inspect.signature(getattr(plain, name)).parameters for name in names}
    methods = {name: [p for p in taken if p != "_ray_trace_ctx"] for name, taken in signatures.items()}
    assert methods["submit"] == ["self", "key", "researcher", "snapshot", "name", "tier"]
    taken = {parameter for parameters in methods.values() for parameter in parameters}
    about_methods = {"key", "researcher", "snapshot", "name", "tier", "domain"}
    assert taken <= about_methods | {"self", "run_dir", "config", "record_id", "record_ids"}


def test_a_single_flip_a_subset_or_another_split_cannot_be_asked_for(theatre: Theatre) -> None:
    judge, snapshot = theatre.stage.evaluator, theatre.stage.objects.put_tree({"method.py": PLAIN.encode()})
    predictions = theatre.stage.objects.put_bytes(pack([1] + [-1] * 79))
    for tier in ("seal", "test", "train_unlabel", "pool_b", "", "dev\0", "../dev"):
        with pytest.raises(RefusedError, match="takes no submissions"):
            theatre.do(judge.submit(f"split/{tier}", "03-s", snapshot, "n", tier))
    with pytest.raises(RefusedError, match="no tree"):
        theatre.do(judge.submit("flip", "03-s", predictions, "n", "dev"))
    for extra in ({"predictions": [1]}, {"split": "train_unlabel"}, {"items": [0]}, {"seeds": [42]}):
        call: Any = judge.submit
        with pytest.raises(TypeError):
            call("k", "03-s", snapshot, "n", "dev", **extra)


# ---- seeds, re-rolls, budgets


def test_the_same_code_twenty_times_is_one_answer_one_run_and_one_charge(theatre: Theatre) -> None:
    variants = [PLAIN, f"# another comment\n{PLAIN}", PLAIN.replace("\n    return", "\n\n    # here\n    return")]
    variants += [PLAIN.replace("def train(run):", 'def train(run):\n    """Once more."""')]
    before = theatre.answers_left("01-a")
    answers = [theatre.submit(variants[n % 4], key=f"again-{n}") for n in range(20)]
    assert all(answer == answers[0] for answer in answers)
    assert theatre.answers_left("01-a") == before - 1
    renamed = PLAIN.replace("(run)", "(r)").replace("run.", "r.")
    assert theatre.submit(renamed, key="renamed") == answers[0]
    assert theatre.answers_left("01-a") == before - 1, "another spelling is no other method"
    theatre.submit(PLAIN.replace("> 0.5", "> 0.51"), key="other")  # nobody else submits this
    assert theatre.answers_left("01-a") == before - 2


def test_a_method_that_picks_its_seeds_gains_nothing_by_those_that_it_refuses(theatre: Theatre) -> None:
    answer = theatre.submit(SEED_PICKER.replace("% 2", "% 1000 < 1001"))
    assert answer["failed_seeds"] == 3
    assert answer["error"] == "error: RuntimeError"
    record = theatre.stage.evaluator.record(answer["record_id"])
    assert record is not None
    assert record["accuracy"] == record["weak_accuracy"]
    picked = theatre.submit(SEED_PICKER)
    record = theatre.stage.evaluator.record(picked["record_id"])
    weak = next(r for r in theatre.stage.evaluator.records() if (r["method"], r["tier"]) == ("weak", "dev"))
    assert record is not None
    assert picked["failed_seeds"] == len(record["failed_seeds"])
    assert len(record["per_seed"]) == 3, "no seed is left out"
    assert all(record["per_seed"][seed] == weak["per_seed"][seed] for seed in record["failed_seeds"])


def test_ten_sybils_share_one_limit_and_every_failure_counts(theatre: Theatre) -> None:
    broken = "def train(run):\n    raise RuntimeError('{}')\n"
    used = theatre.stage.evaluator.status()["wear"]["board"]["used"]
    refused = 0
    for number in range(3, 13):
        try:
            theatre.submit(broken.format(number), f"{number:02d}-s", "board")
        except RefusedError as refusal:
            refused += refusal.reason == "tier_exhausted"
    assert refused == 10 - (8 - used)
    assert theatre.stage.evaluator.status()["wear"]["board"] == {"used": 8, "limit": 8}
    logged = theatre.stage.journal.events(kind="submission")
    assert sum(event.payload["tier"] == "board" for event in logged) == 8


def test_replies_to_a_good_and_a_bad_student_differ_in_their_figures_only(theatre: Theatre) -> None:
    bad = theatre.submit(PLAIN.replace("> 0.5", "< 0.5"), "02-b")
    good = theatre.submit(PLAIN.replace("epochs=1", "epochs=3"), "02-b")
    assert list(good) == list(bad)
    assert [type(v) for v in good.values()] == [type(v) for v in bad.values()]
    assert abs(len(json.dumps(good)) - len(json.dumps(bad))) <= 4
    exact = theatre.stage.evaluator.record(good["record_id"])
    assert exact is not None
    steps = good["accuracy"] / theatre.stage.config.scoring.dev_round
    assert steps == pytest.approx(round(steps))
    if len(str(exact["accuracy"])) > len("0.123"):  # a shorter figure may stand there by chance
        assert str(exact["accuracy"]) not in json.dumps(good)


# ---- what a method finds and what it can change


def test_no_method_finds_truth_scored_texts_or_the_secret_in_a_counted_run(theatre: Theatre) -> None:
    """It reads every file that it can reach. What it must not find is told to it in cipher.

    The control: a text of the pools, which are its inputs, is found in disguise.
    """
    tools = theatre.stage.evaluator._primary._t
    splits, size = tools.splits, 24
    forbidden = {needle[:size] for needle in needles(splits)}
    scored = [splits.split(part).items for part in ("dev", "board", "seal")]
    for items in (*scored, *map(tools.shown, scored)):
        forbidden |= {text.encode()[:size] for text in items.prompts}
    forbidden.add((theatre.stage.paths.judge / "secret.bin").read_bytes()[:size])
    shown = [text.encode() for text in tools.shown(splits.unlabelled().items).prompts]
    wanted = sorted(f for f in forbidden if len(f) == size and not any(f in text for text in shown))
    told = [bytes(255 - byte for byte in words).hex() for words in (shown[0], *wanted)]
    search = """
import os, sys
def train(run):
    told = open(os.path.join(os.path.dirname(__file__), 'told.txt')).read().split()
    control, *words = [bytes(255 - byte for byte in bytes.fromhex(word)) for word in told]
    found, files, seen = set(), 0, False
    for folder, names, here in os.walk('/'):
        if folder.startswith(('/proc', '/sys', '/usr', '/etc', '/lib', '/bin', sys.prefix, sys.base_prefix)):
            names.clear()
            continue
        for name in here:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and os.access(path, os.R_OK) and os.path.getsize(path) < 1 << 28:
                data = open(path, 'rb').read()
                files, seen = files + 1, seen or control in data
                found |= {path for word in words if word in data}
    raise RuntimeError(f'found {sorted(found)} control {seen} files {files > 50}')
"""
    assert len(wanted) > 60
    files = {"method.py": search.encode(), "told.txt": "\n".join(told).encode()}
    answer = theatre.submit_tree(theatre.stage.objects.put_tree(files))
    assert theatre.said(answer) == "RuntimeError: found [] control True files True"
    assert "found" not in answer["error"], "no word of a method's own leaves a counted run"


def test_no_pool_shares_a_prompt_with_a_scored_one(theatre: Theatre) -> None:
    splits = theatre.stage.evaluator._primary._t.splits
    prompts = {name: set(splits.split(name).items.prompts) for name in SPLITS}
    assert not any(prompts[a] & prompts[b] for a in SPLITS for b in SPLITS if a < b)


def lease(theatre: Theatre, source: str, name: str) -> LeaseResult:
    """A counted lease of its own: one training with a fixed seed, one batch, outside the judge's books."""
    judge = theatre.stage.evaluator
    tools, shared = judge._primary._t, judge._primary.shared
    home = theatre.stage.paths.root / "own" / name
    (home / "code").mkdir(parents=True)
    (home / "code" / "method.py").write_text(source)
    batch = make_blinded_batch(tools.secret, tools.splits.split("dev"), "fixed")
    batch.items.save(home / "sheet.arrow")
    strong = judge._primary.models.folder("strong")
    inputs = {
        "code": home / "code",
        "items.arrow": shared.items_file,
        "weak.safetensors": shared.weak_file(0),
        "features.safetensors": shared.features_file,
        "prior.safetensors": shared.prior_file,
        "strong": strong,
    }
    steps = (
        method_step("train", inputs, protocol(tools.splits.domain.spec.student, 5, tools.sizes), tools.sizes),
        predict_step("predict", "train", strong, home / "sheet.arrow", tools.sizes),
    )
    order = method_order(
        name, Payer("campaign/score", "full"), tools.sizes, 1, steps, shared.control(name, theatre.do(shared.given()))
    )
    request = LeaseRequest(name, order.account, "full", order.gpus, order.seconds, order.job)
    granted = Lease(name, request, "slot-0", 1, str(theatre.stage.paths.leases / name))
    return theatre.do(theatre.stage.slots[0].run(granted))


PATCHES = """
import builtins, json, sys, time
import numpy, safetensors.numpy, safetensors.torch, torch
class Equal:
    def __eq__(self, other): return True
    def __hash__(self): return 0
import gpu_pool.weak_to_strong.entrypoints as entries, gpu_pool.weak_to_strong.student as s
from gpu_pool.weak_to_strong.items import ItemSet
def patch():
    s.Student.predict = lambda self, items: numpy.ones((len(items), 2), numpy.float32)
    entries.ENTRIES['predict'] = lambda *a: {}
    entries.predict = lambda *a: {}
    numpy.isfinite = lambda *a, **k: True
    numpy.mean = lambda *a, **k: 1.0
    torch.equal = lambda *a: True
    safetensors.numpy.load = safetensors.numpy.load_file = lambda *a: Equal()
    ItemSet.load = lambda *a: Equal()
    time.monotonic = lambda: 0.0
    builtins.open = lambda *a, **k: Equal()
"""


def test_patched_libraries_change_nothing_outside_the_methods_own_process(theatre: Theatre) -> None:
    honest = lease(theatre, PLAIN, "honest")
    body = PLAIN.replace("    return run.student(", "    done = run.student(") + (
        "    import atexit\n    atexit.register(patch)\n    save = done.save\n"
        "    class Late(type(done)):\n        def save(self, path):\n            save(path)\n            patch()\n"
        "    return Late(done.base, done.node, done.tensors)\n"
    )
    patched = lease(theatre, PATCHES + body, "patched")
    assert [step.status for step in (*honest.steps, *patched.steps)] == ["ok"] * 4
    one, other = (load_file(r.step("predict").outputs["probs.safetensors"])["probs"] for r in (honest, patched))
    assert np.array_equal(one, other)


def test_training_inference_and_truth_have_three_uids(theatre: Theatre) -> None:
    slot = theatre.stage.slots[0]
    workers = {role: held.worker for role, held in slot._trusted.items()}
    boxes = {role: worker._box for role, worker in workers.items() if worker is not None}
    boxes["method"] = slot._spares[0]._box  # type: ignore[index]
    assert set(boxes) == {"inference", "library", "method"}
    if os.geteuid() == 0:
        uids = {os.stat(f"/proc/{box.init_pid}").st_uid for box in boxes.values() if box is not None}  # type: ignore[union-attr]  # noqa: PTH116
        assert len(uids) == 3
        assert 0 not in uids


def test_items_reach_inference_fresh_shuffled_and_some_twice(theatre: Theatre) -> None:
    lease(theatre, PLAIN.replace("epochs=1", "epochs=2"), "sheet-look")
    batch = ItemSet.load(theatre.stage.paths.root / "own" / "sheet-look" / "sheet.arrow")
    split = theatre.stage.evaluator._primary._t.splits.split("dev")
    rows = list(zip(batch.prompts, batch.firsts, strict=True))
    assert len(rows) == len(split) + 20
    assert len(set(rows)) == len(split)
    assert set(batch.ids).isdisjoint(split.items.ids)
    assert rows[: len(split)] != list(zip(split.items.prompts, split.items.firsts, strict=True))


# ---- bad input: refused in one line, counted, and the evaluator goes on

BAD_STUDENTS = {
    "fifo": (writing("os.mkfifo(path)"), "bad_output: no regular file"),
    "fifty gigabytes": (writing("f = open(path, 'wb'); f.truncate(50 << 30)"), "error: OSError"),
    "above its limit": (writing("f = open(path, 'wb'); f.truncate(100 << 20); f.close()"), "bad_output: too large"),
    "a link": (writing("os.symlink('/in/strong/model.safetensors', path)"), "bad_output: no regular file"),
    "pickled code": (
        writing("pickle.dump(print, open(path, 'wb'))", "import pickle"),
        "refused: its file is no student",
    ),
    "extra tensors": (
        writing(
            "save_file({'labels': torch.ones(4)}, path, metadata={'student': M})",
            'import torch\nfrom safetensors.torch import save_file\nM = \'{"version": 1, "student": {"kind": "lm"}}\'',
        ),
        "refused: its file is no student",
    ),
    "a frame of two gigabytes": (
        "import os, stat, struct\nfor fd in os.listdir('/proc/self/fd'):\n  try:\n"
        "    pipe = int(fd) > 2 and stat.S_ISFIFO(os.fstat(int(fd)).st_mode)\n"
        "    if pipe: os.write(int(fd), struct.pack('>I', 2 << 30))\n"
        "  except OSError: pass\ndef train(run): return None\n",
        "crashed",
    ),
    "no student": ("def train(run):\n    return {'accuracy': 1.0}\n", "no method's"),
}


@pytest.mark.parametrize("name", list(BAD_STUDENTS))
def test_a_bad_student_is_refused_in_one_line_and_counted(name: str, theatre: Theatre) -> None:
    source, said = BAD_STUDENTS[name]
    before = theatre.answers_left("01-a")
    answer = theatre.submit(source)
    assert answer["failed_seeds"] == answer["seeds"] == 3
    assert said in answer["error"]
    assert "\n" not in answer["error"]
    assert not any(character.isdigit() for character in answer["error"]), "a number would be of the method's making"
    assert theatre.answers_left("01-a") == before - 1
    record = theatre.stage.evaluator.record(answer["record_id"])
    assert record is not None
    assert record["status"] == "failed"


def test_what_is_no_method_is_refused_in_one_line_and_costs_an_answer_once(theatre: Theatre) -> None:
    method = PLAIN.encode()
    objects = theatre.stage.objects
    blob = objects.put_bytes(method)
    snapshots = {
        "over 64 KB": objects.put_tree({"method.py": method + b"#" * 65_536}),
        "a binary": objects.put_tree({"method.py": method, "weights.bin": b"\x7fELF\xff\xfe\x00"}),
        "an escaping name": objects.put_bytes(pack([["../../method.py", blob, len(method)]])),
        "a name of a device": objects.put_bytes(pack([["/dev/null", blob, len(method)]])),
        "a msgpack bomb": objects.put_bytes(b"\xdd\xff\xff\xff\xff"),
        "a lying size": objects.put_bytes(pack([["method.py", objects.put_bytes(method + b"#" * 70_000), 1]])),
        "a syntax error": objects.put_tree({"method.py": b"def train(run:\n"}),
    }
    before = theatre.answers_left("04-s")
    for number, (name, snapshot) in enumerate(snapshots.items(), start=1):
        for _ in range(2):
            with pytest.raises(RefusedError) as caught:
                theatre.submit_tree(snapshot, "04-s", key=f"hostile/{name}")
            assert caught.value.reason in ("bad_method", "too_large"), name
            assert "\n" not in caught.value.message
        assert theatre.answers_left("04-s") == before - number
    rejected = theatre.stage.journal.events(kind="submission_rejected")
    assert len(rejected) >= len(snapshots)
    poor = "02-b"
    for number in range(3):
        with pytest.raises(RefusedError, match="line 1"):
            theatre.submit_tree(snapshots["a syntax error"], poor, key=f"poor/{number}")
    assert theatre.answers_left(poor) == 0
    with pytest.raises(RefusedError, match="line 1"):
        theatre.submit_tree(snapshots["a syntax error"], poor, key="poor/last")


def test_all_stands_in_the_journal_before_it_ran_and_the_chain_holds(theatre: Theatre) -> None:
    """Last in this file: nothing that the tests above submitted was dropped."""
    events = theatre.stage.journal.events()
    opened = {e.payload["submission"]: e.seq for e in events if e.kind == "submission"}
    answered = {e.payload["submission"]: e.seq for e in events if e.kind == "submission_answered"}
    assert opened
    assert set(answered) <= set(opened)
    assert all(answered[number] > opened[number] for number in answered)
    with theatre.stage._store.transaction() as db:
        assert verify_chain(db).broken is None
