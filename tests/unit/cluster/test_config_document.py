"""A configuration is what was written: no limit vanishes, no word becomes a number, no key stands twice."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.config import ConfigError, dump_config, load_config, load_stored, preset_names
from cluster.config.document import read_document, write_document

CAPS = [
    f"budget.{who}.{what}"
    for who in ("campaign", "researcher")
    for what in ("usd", "gpu_hours", "wall_hours", "answers")
]
PRICES = "output: 1, cache_write_5m: 1, cache_write_1h: 1, cache_read: 1}"
LIMITS = [*CAPS, "research.plateau_minutes"]


def refused(**arguments: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(**arguments)
    return str(caught.value)


def from_file(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return refused(file=path)


def value_of(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name)
    return config


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[(word, word) for word in ("yes", "no", "on", "off", "Y", "1:30", "1_000", "2026-01-01", "=", ".", "tRue")],
        *[("010", 10), ("0o10", 8), ("0x1F", 31), ("+5", 5), ("-0", 0), ("1e-4", 1e-4), ("1E3", 1e3), (".5", 0.5)],
        *[("~", None), ("Null", None), ("", None), ("TRUE", True), ("false", False), ("'1'", "1"), (".inf", math.inf)],
    ],
)
def test_plain_words_mean_what_yaml_1_2_says(text: str, value: Any) -> None:
    read = read_document(f"a: {text}", "x")["a"]
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("a: 1\na: 2", 2, "'a' stands twice in one section, first in line 1"),
        ("b:\n  - {c: 1}\n  - c: 1\n    d: 2\n    c: 3", 5, "first in line 3"),
        ("b: {a: 1, 'a': 2}", 1, "twice"),
        ("<<: {a: 1, a: 2}", 1, "twice"),
        ("x: &x {a: 1}\ny: {<<: *x, <<: *x}", 2, "twice"),
        ("1: a", 1, "not text"),
        ("? [a]\n: b", 1, "not text"),
        ("a: &a [*a]", 1, "alias"),
        ("a: !!python/name:os.system x", 1, "tag"),
        ("a: !!timestamp 2026-01-01", 1, "tag"),
        ("a: 1\n---\na: 2", 2, "single document"),
    ],
)
def test_what_could_be_misread_is_refused_with_its_line(text: str, line: int, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_document(text, "file")
    assert str(caught.value).startswith(f"file:{line}: ")
    assert why in str(caught.value)


def test_merge_keys_give_way_to_own_keys() -> None:
    assert read_document("x: &x {a: 1, b: 2}\ny: {<<: *x, a: 3}", "f")["y"] == {"a": 3, "b": 2}


@pytest.mark.parametrize("form", ["[{}]", "{{<<: [{}]}}"])
def test_aliases_cannot_make_a_small_text_large(form: str) -> None:
    lines = ["a0: &a0 " + form.format("{x: 1}" if "<<" in form else "x")]
    lines += [f"a{n}: &a{n} " + form.format(", ".join([f"*a{n - 1}"] * 9)) for n in range(1, 30)]
    began = time.process_time()
    with pytest.raises(ConfigError, match="values, aliases written out"):
        read_document("\n".join(lines), "f")
    assert time.process_time() - began < 5


@pytest.mark.parametrize("text", ["[" * 5000, "{a: " * 5000, "- " * 5000, "a: " + "9" * 6000, "x" * (1 << 21)])
def test_extreme_texts_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        read_document(text, "f")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3),
        max_leaves=6,
    )
)
@settings(deadline=None, max_examples=200)
def test_what_is_written_is_read_back_also_by_readers_of_version_1_1(data: Any) -> None:
    text = write_document(data)
    assert text.isascii()
    for read in (read_document(text, "f"), yaml.safe_load(text)):
        assert repr(read) == repr(data)


@pytest.mark.parametrize("word", ["yes", "off", "010", "1:30", "1e-4", "~", "null", "<<", "=", "none", "0o7", ".inf"])
def test_words_that_look_like_something_else_stay_words(word: str) -> None:
    text = write_document({word: word})
    assert read_document(text, "f") == yaml.safe_load(text) == {word: word}


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("empty", ["", " ", "null", "~", "# 5"])
def test_a_limit_without_a_value_is_refused(limit: str, empty: str, tmp_path: Path) -> None:
    assert "no value" in refused(preset="quickstart", overrides=(f"{limit}={empty}",))
    *sections, name = limit.split(".")
    text = "base: quickstart\n"
    for depth, section in enumerate(sections):
        text += "  " * depth + f"{section}:\n"
    text += "  " * len(sections) + f"{name}: {empty}\n"
    assert f"{limit}: no value" in from_file(tmp_path, text)


@pytest.mark.parametrize("limit", LIMITS)
def test_the_word_none_is_no_limit_and_is_written_so(limit: str, tmp_path: Path) -> None:
    config = load_config("quickstart", overrides=(f"{limit}=7", f"{limit}=none"))
    assert value_of(config, limit) is None
    (tmp_path / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    assert load_config(file=tmp_path / "config.yaml") == config
    assert "none" in dump_config(config)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize(
    "word", ["off", "yes", "true", "1:30", "'5'", "1_000", ".inf", ".nan", "-1", "None", "NONE", "[]"]
)
def test_no_other_word_is_a_limit(limit: str, word: str) -> None:
    assert f"  {limit}: " in refused(preset="quickstart", overrides=(f"{limit}={word}",))


@pytest.mark.parametrize("field", ["budget", "budget.campaign", "research", "task", "pool", "seed", "brain.model"])
def test_an_empty_override_is_refused_everywhere(field: str) -> None:
    assert "no value" in refused(preset="quickstart", overrides=(f"{field}=",))


def test_an_override_of_a_section_keeps_its_other_caps() -> None:
    config, base = (
        load_config("quickstart", overrides=("budget.campaign={usd: 1}", "budget.researcher={}")),
        load_config("quickstart"),
    )
    assert config.budget.campaign == base.budget.campaign.model_copy(update={"usd": 1.0})
    assert config.budget.researcher == base.budget.researcher


def test_a_second_budget_section_is_refused(tmp_path: Path) -> None:
    text = "base: quickstart\nbudget:\n  campaign: {usd: 1}\nseed: 1\nbudget:\n  campaign: {usd: 100}\n"
    assert "mine.yaml:5: 'budget' stands twice in one section, first in line 2" in from_file(tmp_path, text)


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("seed=true", "seed"),
        ("seed=1.0", "seed"),
        ("seed='1'", "seed"),
        ("seed=99999999999999999999", "seed"),
        ("forum.enabled=1", "forum.enabled"),
        ("forum.enabled=yes", "forum.enabled"),
        ("pool.usd_per_gpu_hour=true", "pool.usd_per_gpu_hour"),
        ("pool.memory_gb=1e400", "pool.memory_gb"),
        ("researchers.max_turns=1e3", "researchers.max_turns"),
        ("brain.model=5", "brain.model"),
        (f"gateway.prices.m={{input: true, {PRICES}", "gateway.prices.m.input"),
        (f"gateway.prices.m={{input: .nan, {PRICES}", "gateway.prices.m.input"),
        (f"gateway.prices.m={{input: 1:30, {PRICES}", "gateway.prices.m.input"),
        ("task.domains=math", "task.domains"),
    ],
)
def test_a_value_of_another_type_is_refused(override: str, field: str) -> None:
    assert f"  {field}: " in refused(preset="quickstart", overrides=(override,))


def test_numbers_may_be_written_whole_or_with_an_exponent() -> None:
    config = load_config(
        "quickstart", overrides=("pool.memory_gb=2", "budget.campaign.usd=1e1", "scoring.dev_noise=2E-2")
    )
    assert (config.pool.memory_gb, config.budget.campaign.usd, config.scoring.dev_noise) == (2.0, 10.0, 0.02)


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("budget.campaign.gpu_hour=1", "budget.campaign.gpu_hours"),
        ("budgets.campaign.usd=1", "budget"),
        ("plateau_minutes=3", "research.plateau_minutes"),
        ("researchers.directions=[{id: a, txt: b, text: c}]", "researchers.directions.0.text"),
        ("task.files.x={path: a, weak: b, strng: c, strong: d}", "task.files.x.strong"),
    ],
)
def test_an_unknown_field_comes_with_the_nearest_known_one(override: str, near: str) -> None:
    assert f"did you mean {near}?" in refused(preset="quickstart", overrides=(override,))


@pytest.mark.parametrize("base", ["", "3", "[quickstart]", "null"])
def test_a_base_is_a_name(base: str, tmp_path: Path) -> None:
    assert "base: " in from_file(tmp_path, f"base: {base}\nseed: 1\n")


@pytest.mark.parametrize("name", preset_names())
def test_a_run_directory_of_an_earlier_version_is_still_read(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    path = tmp_path / "config.yaml"
    path.write_text(
        yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    assert load_stored(path) == config
    assert "null" in path.read_text(encoding="utf-8")
