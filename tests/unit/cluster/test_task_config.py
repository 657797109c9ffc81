"""The task section: tasks from files, and the published protocol as its default."""

from __future__ import annotations

import pytest

from cluster.config import ConfigError, Training, dump_config, load_config, validate

FILES = "task.files={chat: {path: /data/chat, weak: Qwen/Qwen1.5-0.5B-Chat, strong: Qwen/Qwen3-4B-Base}}"


def test_the_default_protocol_is_the_published_one() -> None:
    files = load_config("quickstart", overrides=(FILES,)).task.files["chat"]
    assert files.protocol == Training() == Training(epochs=5, lr=1e-4, batch=32, trainable="lora:32", betas=(0.9, 0.95))


def test_a_task_from_files_loads_and_survives_being_written() -> None:
    config = load_config("quickstart", overrides=(FILES, "task.domains=[chat, math]"))
    assert list(config.task.from_files()) == ["chat"]
    assert validate(config.model_dump(mode="json")) == config
    assert "/data/chat" in dump_config(config)


@pytest.mark.parametrize(
    ("overrides", "field", "expectation"),
    [
        (("task.domains=[poetry]", FILES), "task.domains.0", "or a name of task.files"),
        (("task.files={Chat: {path: a, weak: b, strong: c}}",), "task.files", "found 'Chat'"),
        (("task.files={leases: {path: a, weak: b, strong: c}}",), "task.files", "not leases"),
        (("task.files={chat: {path: a, weak: b}}",), "task.files.chat.strong", "a value"),
        ((FILES, "task.files.chat.protocol.trainable=lora"), "task.files.chat.protocol.trainable", "lora:r"),
        ((FILES, "task.files.chat.protocol.trainable='lora:8:1'"), "task.files.chat.protocol.trainable", "lora:r"),
        ((FILES, "task.files.chat.protocol.lr=0"), "task.files.chat.protocol.lr", "greater than 0"),
        ((FILES, "task.files.chat.protocol.dropout=0.1"), "task.files.chat.protocol.dropout", "documented fields"),
        ((FILES, "task.files.chat.max_length=0"), "task.files.chat.max_length", "greater than or equal to 1"),
        (("runs.predict_seconds=0",), "runs.predict_seconds", "greater than 0"),
    ],
)
def test_a_bad_value_is_refused_with_its_field_and_what_was_expected(
    overrides: tuple[str, ...], field: str, expectation: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("quickstart", overrides=overrides)
    (line, *_) = [x for x in str(caught.value).splitlines() if x.startswith(f"  {field}:")]
    assert expectation in line
