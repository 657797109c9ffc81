"""The scripts of weak-to-strong experiments: tables, verdicts, and one clear line for what is wrong."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.evaluator.statistics import Comparison, PgrEstimate, compare, estimate_pgr
from gpu_pool.weak_to_strong import LabelModel
from gpu_pool.weak_to_strong.domains import Domain, ModelShape
from gpu_pool.weak_to_strong.experiment import Hits, Scores
from gpu_pool.weak_to_strong.tasks.schema import Split, Task
from scripts import run_w2s, w2s_table
from scripts.bench import methods as bench_methods
from scripts.bench import scale_check
from scripts.w2s_options import methods

QUICK = ["--epochs", "1", "--lr", "1e-3"]


def saved_task(chat: Domain, where: Path, *, truth: bool = True) -> Path:
    label, unlabel, test = (Split(*chat.sample(n, 70 + n)) for n in (20, 40, 30))
    Task("tiny", "pair", label, unlabel if truth else Split(unlabel.items), test).save(where)
    return where


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory, folder: Path, chat: Domain) -> list[str]:
    root = tmp_path_factory.mktemp("cli")
    task = saved_task(chat, root / "task")
    return ["--task", str(task), "--cache", str(root / "cache"), *QUICK]


def pair(folder: Path) -> list[str]:
    return ["--weak", str(folder), "--strong", str(folder)]


def test_run_w2s_prints_a_table_and_finds_everything_again(
    arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text("def train(run):\n    return run.student(run.strong())\n")
    chosen = ["--method", "vanilla", "--method", "logconf", "--method", str(tmp_path / "mine.py"), "--seeds", "2"]
    chosen += ["--param", "strength=0.5", "--json", str(tmp_path / "out.json")]
    assert run_w2s.main([*arguments, *pair(folder), *chosen]) == 0
    first = capsys.readouterr()
    for name in ("weak", "ceiling", "vanilla", "logconf(strength=0.5)", "mine"):
        assert f"| {name} " in first.out
    assert "PGR [95 %]" in first.out
    assert "p (Holm)" in first.out
    assert first.err.count("from the cache") == 0
    figures = json.loads((tmp_path / "out.json").read_text())
    assert [row["name"] for row in figures["rows"]] == ["weak", "ceiling", "vanilla", "logconf(strength=0.5)", "mine"]
    assert len(figures["accuracy_per_seed"]["mine"]) == 2
    assert run_w2s.main([*arguments, *pair(folder), *chosen]) == 0
    second = capsys.readouterr()
    assert second.out == first.out
    assert second.err.count("from the cache") == second.err.count("accuracy") == 10


def test_run_w2s_reads_json_lines_and_names_a_broken_row(
    arguments: list[str], folder: Path, chat: Domain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = []
    for split, count in (("train_label", 20), ("train_unlabel", 40), ("test", 30)):
        items, labels = chat.sample(count, 90 + count)
        for item, label in zip(items, labels.tolist(), strict=True):
            row = {"split": split, "prompt": item.prompt, "first": item.first, "second": item.second}
            lines.append(json.dumps(row | {"label": "AB"[label]}))
    file = tmp_path / "items.jsonl"
    file.write_text("\n".join(lines))
    given = [*arguments, *pair(folder), "--seeds", "1", "--task", str(file)]
    assert run_w2s.main(given) == 0
    out = capsys.readouterr().out
    assert out.startswith("items: ")
    assert "One seed gives no interval" in out
    file.write_text("\n".join([*lines[:4], '{"split": "test", "prompt": "a"}']))
    assert run_w2s.main(given) == 2
    error = capsys.readouterr().err
    assert f"{file}:5" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--method", "vanila"], "method 'vanila'"),
        (["--method", "logconf", "--param", "strength=7"], "parameter strength"),
        (["--method", "logconf", "--param", "power=2"], "--param power=2"),
        (["--epochs", "0"], "epochs"),
        (["--trainable", "lora:0"], "lora:0"),
        (["--weak", "no/such/folder"], "no/such/folder"),
        (["--weak-chat"], "chat template"),
        (["--weak", ""], "--weak PATH and --strong PATH"),
        (["--task", "no_such_file.jsonl"], "no_such_file.jsonl"),
        (["--task", "generated:poetry"], "poetry"),
        (["--seeds", "0"], "--seeds"),
        (["--json", "no/such/folder/out.json"], "the folder no/such/folder does not exist"),
        (["--json", "."], "no file can be written there"),
        (["--cache", "/dev/null/cache"], "--cache /dev/null/cache"),
        (["--max-length", "0"], "--max-length"),
        (["--max-length", "15", "--over-long", "refuse"], "longer than 15 tokens"),
        (["--weak", "gpt2"], "expected a folder with config.json, model.safetensors and tokenizer.json, or OWNER/NAME"),
        (["--weak", "."], "has no config.json: expected a folder with config.json"),
    ],
)
def test_what_is_wrong_is_one_line_and_status_2(
    arguments: list[str], folder: Path, given: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_w2s.main([*arguments, *pair(folder), "--seeds", "1", *given]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert error[0].startswith("run_w2s: ")
    assert says in error[0]


@pytest.mark.parametrize("option", [["--max-length", "9"], ["--over-long", "cut"], ["--weak-chat"], ["--strong-chat"]])
def test_an_option_that_no_model_would_heed_is_refused(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_w2s.main(["--task", "generated:math:quick", "--seeds", "1", *option]) == 2
    assert f"{option[0]} is for models of your own" in capsys.readouterr().err


def test_a_gpu_that_is_not_there_and_truth_that_is_not_known(
    arguments: list[str],
    folder: Path,
    chat: Domain,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run_w2s.main([*arguments, *pair(folder), "--device", "cuda"]) == 2
    assert "no CUDA device" in capsys.readouterr().err
    blind = saved_task(chat, tmp_path / "blind", truth=False)
    assert run_w2s.main([*arguments, *pair(folder), "--seeds", "1", "--task", str(blind)]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1, "no teacher was trained before it was noticed"
    assert "train_unlabel has no labels" in error[0]
    assert "give every item of it a label" in error[0]


def test_files_of_one_name_are_told_apart_and_none_is_taken_for_a_published_method(
    arguments: list[str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / name for name in ("a/mine.py", "b/mine.py", "a/vanilla.py", "a/weak.py", "one/m/method.py")]
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        label = "run.weak * 0 + 1" if number % 2 else "run.weak * 0"
        file.write_text(f"def train(run):\n    return run.student(run.fit({label}))\n")
    again = tmp_path / "a" / ".." / "a" / "mine.py"
    chosen = ["--seeds", "2", "--json", str(tmp_path / "out.json")]
    chosen += [part for file in [*files, "vanilla", again] for part in ("--method", str(file))]
    assert run_w2s.main([*arguments, *pair(folder), *chosen]) == 0
    figures = json.loads((tmp_path / "out.json").read_text())
    names = ["weak", "ceiling", "a/mine.py", "b/mine.py", "a/vanilla.py", "a/weak.py", "m", "vanilla"]
    assert [row["name"] for row in figures["rows"]] == names
    assert list(figures["accuracy_per_seed"]) == names
    shown = capsys.readouterr().out
    assert all(f"| {name} " in shown for name in names)
    by = {row["name"]: row for row in figures["rows"]}
    assert "vs_vanilla" not in by["vanilla"]
    assert by["a/vanilla.py"]["vs_vanilla"] == by["a/mine.py"]["vs_vanilla"]
    deep = tmp_path / "two" / "m" / "method.py"
    deep.parent.mkdir(parents=True)
    deep.write_text(files[-1].read_text())
    assert [m.name for m in methods([str(files[-1].parent), str(deep)], [])] == ["one/m/method.py", "two/m/method.py"]


def test_a_method_that_fails_is_one_line_with_its_name_and_seed(
    arguments: list[str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.py").write_text("def train(run):\n    return 1 / 0\n")
    chosen = ["--seeds", "1", "--first-seed", "3", "--method", str(tmp_path / "bad.py")]
    assert run_w2s.main([*arguments, *pair(folder), *chosen]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "run_w2s: method 'bad', seed 3 raised ZeroDivisionError: division by zero (line 2)"


def test_what_was_dropped_and_cut_is_said(
    arguments: list[str], folder: Path, chat: Domain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label, unlabel, test = (Split(*chat.sample(n, 70 + n)) for n in (20, 40, 30))
    both = [split.take(range(3)) for split in (test, unlabel)]
    assert both[0].labels is not None
    assert both[1].labels is not None
    renamed = dataclasses.replace(both[0].items, ids=("x", "y", "z"))
    more = Split(unlabel.items.concat(renamed), np.concatenate([unlabel.labels, both[0].labels]))
    Task("twice", "pair", label, more, test).save(tmp_path / "task")
    out = tmp_path / "out.json"
    given = [*arguments, *pair(folder), "--task", str(tmp_path / "task"), "--seeds", "1", "--json", str(out)]
    given += ["--max-length", "16"]
    assert run_w2s.main(given) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[1] == "note: train_unlabel: 3 with prompts of test dropped, 40 left"
    figures = json.loads(out.read_text())
    assert figures["notes"] == [shown[1].removeprefix("note: ")]
    cut = figures["cut"]["weak"]
    assert set(cut) == {"train_label", "train_unlabel", "test"}
    assert f"note: cut to the length of the weak model: {cut['train_label']} of 20 train_label texts" in shown[2]
    assert figures["cut"]["strong"] == {name: cut[name] for name in ("train_unlabel", "test")}
    assert "of the strong model: " in shown[3]
    assert run_w2s.main([*given, "--max-length", "500"]) == 0
    assert "cut to the length" not in capsys.readouterr().out


def test_help_warns_of_method_files(capsys: pytest.CaptureFixture[str]) -> None:
    for main in (run_w2s.main, scale_check.main):
        with pytest.raises(SystemExit):
            main(["--help"])
        text = " ".join(capsys.readouterr().out.split())
        assert "without a sandbox" in text
        assert "only your own code" in text


def test_scale_check_on_pairs_of_models(
    arguments: list[str],
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded: list[Path] = []
    load = LabelModel.load

    def counted(path: Path, *args: Any, **kwargs: Any) -> LabelModel:
        loaded.append(path)
        return load(path, *args, **kwargs)

    monkeypatch.setattr(LabelModel, "load", counted)
    shutil.copytree(folder, tmp_path / "copy")
    pairs = ["--pair", f"{folder}:{folder}", "--pair", f"{folder}:{tmp_path}/copy"]
    given = ["soft", *arguments, "--cache", str(tmp_path / "cache"), "--seeds", "2"]
    assert scale_check.main([*given, *pairs]) == 0
    out = capsys.readouterr().out
    assert f"| {folder}:{folder} |" in out
    assert f"| {folder}:{tmp_path}/copy |" in out
    assert "The gain of soft over vanilla: " in out
    alone = [*given, "--seeds", "1", "--json", str(tmp_path / "out.json")]
    assert scale_check.main([*alone, *pairs]) == 0
    figures = json.loads((tmp_path / "out.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert figures["verdict"] == "undecided"
    assert [rung["low"] for rung in figures["rungs"]] == [None, None]
    capsys.readouterr()
    assert len(loaded) == 2  # the copy is the same model: all its runs were found
    assert scale_check.main([*given, *pairs[:2], *pairs[:2]]) == 2
    assert "given twice" in capsys.readouterr().err
    assert scale_check.main(["soft", *arguments]) == 2
    assert "give two or more --pair" in capsys.readouterr().err
    assert scale_check.main(["soft", "--task", "generated:math", "--rung", "1:x:0", *QUICK]) == 2
    assert "--rung 1:x:0" in capsys.readouterr().err


def rung(low: float, mean: float, *, gap: bool = True) -> scale_check.Rung:
    pgr = PgrEstimate(0.5, 0.4, 0.6, "delta" if gap else "undefined")
    gain = Comparison(mean, low, 2 * mean - low, (mean - low) / 2, 9.0, 0.01)
    return scale_check.Rung("pair", 0.6, 0.8, pgr, pgr, gain)


@pytest.mark.parametrize(
    ("rungs", "says"),
    [
        ([rung(0.01, 0.03), rung(0.002, 0.01)], "survives"),
        ([rung(0.01, 0.03), rung(-0.01, 0.01)], "shrinks"),
        ([rung(0.01, 0.03), rung(-0.03, -0.01)], "does not survive"),
        ([rung(-0.01, 0.01), rung(-0.01, 0.01)], "does not survive"),
        ([rung(0.01, 0.03), rung(-0.03, -0.01, gap=False)], "undecided"),
        ([rung(0.01, 0.03), rung(math.nan, 0.02)], "undecided"),
        ([], "undecided"),
    ],
)
def test_the_verdict_follows_its_rule(rungs: list[scale_check.Rung], says: str) -> None:
    assert scale_check.verdict(rungs) == says


def test_a_scaled_shape_keeps_whole_heads() -> None:
    shape = ModelShape(hidden=48, layers=2, head_dim=16)
    assert scale_check.scaled(shape, 2) == ModelShape(96, 3, 16)
    assert scale_check.scaled(shape, 1.4) == ModelShape(64, 2, 16)
    assert scale_check.scaled(shape, 0.1) == ModelShape(16, 1, 16)


def scores(name: str, hits: Hits) -> Scores:
    return Scores(name, tuple(range(len(hits))), hits.astype(np.float32), hits, np.full(len(hits), 2.0))


def drawn(share: float, seed: int) -> Hits:
    return np.random.default_rng(seed).random((5, 400)) < share


def test_rows_hold_the_statistics_of_the_evaluator() -> None:
    weak, ceiling = scores("weak", drawn(0.6, 1)), scores("ceiling", drawn(0.9, 2))
    vanilla, better = scores("vanilla", drawn(0.7, 3)), scores("better", drawn(0.85, 4))
    groups = np.arange(400) // 2
    same = scores("same", vanilla.hits)
    rows = {row.name: row for row in w2s_table.rows(weak, ceiling, [vanilla, better, same], groups)}
    assert list(rows) == ["weak", "ceiling", "vanilla", "better", "same"]
    assert rows["better"].pgr == estimate_pgr(better.hits, weak.hits, ceiling.hits, groups)
    assert rows["better"].versus == compare(better.hits, vanilla.hits, groups)
    # Two comparisons, Holm: the smaller two-sided p counts twice, the other is 1 already.
    assert rows["better"].p == pytest.approx(2 * 2 * compare(better.hits, vanilla.hits, groups).p)
    assert rows["same"].p == 1
    assert rows["vanilla"].versus is None
    text = w2s_table.table(list(rows.values()))
    assert len(text.splitlines()) == 7
    assert len({len(line) for line in text.splitlines()}) == 1


def test_without_vanilla_nothing_is_compared_and_without_a_gap_there_is_no_pgr() -> None:
    weak, ceiling = scores("weak", drawn(0.9, 1)), scores("ceiling", drawn(0.6, 2))
    rows = w2s_table.rows(weak, ceiling, [scores("mine", drawn(0.7, 3))], np.arange(400))
    text = w2s_table.table(rows)
    assert "no gap" in text
    assert "vanilla" not in text
    assert rows[-1].to_dict()["pgr"] is None
    json.dumps([row.to_dict() for row in rows], allow_nan=False)


def test_the_table_of_all_methods_counts_items_of_one_question_as_one_cluster() -> None:
    hits = {"weak": drawn(0.6, 1), "ceiling": drawn(0.9, 2), "vanilla": drawn(0.7, 3), "better": drawn(0.85, 4)}
    measured = [{name: (own[seed], 1.0) for name, own in hits.items()} for seed in range(5)]
    groups = np.arange(400) // 4
    rows = {row["method"]: row for row in bench_methods.rows("math", measured, groups)}
    pgr = estimate_pgr(hits["better"], hits["weak"], hits["ceiling"], groups)
    assert (rows["better"]["pgr"], rows["better"]["low"], rows["better"]["high"]) == (pgr.value, pgr.low, pgr.high)
    versus = compare(hits["better"], hits["vanilla"], groups)
    assert rows["better"]["p"] == 2 * min(versus.p, 1 - versus.p)
    assert "(unadjusted)" in bench_methods.summary(list(rows.values()))


def test_a_setting_goes_to_the_methods_that_have_it() -> None:
    names = [m.name for m in methods(["vanilla", "logconf", "elr"], ["strength=0.5", "elr.memory=0.9"])]
    assert names == ["vanilla", "logconf(strength=0.5)", "elr(strength=0.5, memory=0.9)"]
    assert methods(["bootstrap"], ['stages=["head"]'])[0].name == "bootstrap(stages=['head'])"
    assert [m.name for m in methods(["vanilla", "vanilla"], [])] == ["vanilla"]
