"""Which task the drivers of single methods score: generated, of a configuration, or named by path and models."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from cluster.config import CampaignConfig, ConfigError
from scripts.score_method import add_task_options, configuration, directory

MODELS = ("--weak", "owner/small", "--strong", "owner/large")


def chosen(*arguments: str) -> CampaignConfig:
    parser = argparse.ArgumentParser()
    add_task_options(parser)
    return configuration(parser.parse_args(arguments))


def test_a_generated_domain_is_named_as_before(tmp_path: Path) -> None:
    config = chosen("--task", "code")
    assert config.task.domains == ("code",)
    assert directory(tmp_path, config).name == "score-code-quick-0"


@pytest.mark.parametrize(
    ("task", "name"),
    [("hub:owner/Help_Steer:plain", "help-steer"), ("/data/My chat", "my-chat"), ("/data/items.v2.jsonl", "items-v2")],
)
def test_a_path_or_data_set_becomes_a_task_from_files(tmp_path: Path, task: str, name: str) -> None:
    config = chosen("--task", task, *MODELS, "--set", f"task.files.{name}.protocol.epochs=1")
    about = config.task.from_files()[name]
    assert (about.path, about.weak, about.strong, about.protocol.epochs) == (task, "owner/small", "owner/large", 1)
    assert directory(tmp_path, config).name == f"score-{name}"


def test_a_configuration_gives_the_task_and_everything_else(tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(
        "base: quickstart\nruns: {seed_seconds: 77}\n"
        "task: {domains: [math], files: {chat: {path: /data/chat, weak: a/b, strong: c/d}}}\n"
    )
    config = chosen("--config", str(file), "--task", "chat")
    assert config.task.domains == ("chat",)
    assert config.runs.seed_seconds == 77


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "/data/chat", "--weak", "a/b"), "needs both models"),
        (("--task", "/data/chat"), "or a name of task.files"),
    ],
)
def test_half_a_task_is_refused(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        chosen(*arguments)
