"""A plausible researcher for the fake endpoint: one small study with whatever tools the request offers.

It decides from the request alone (which tools are offered, which calls the history holds), so that a call that is
asked again gets the same answer. Each conversation studies a method of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from tests.fake_messages.replies import Reply, text, tool, tools

PATH = "methods/study.py"
_METHOD = '''"""Study of {what}."""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, blocks, losses

SETTING = {setting}


def train(run: MethodRun) -> Student:
    """The study's method."""
    {body}
'''
_BODIES = {
    "confident items": (
        "keep = blocks.confident(run.weak, share=SETTING)\n"
        "    return run.student(run.fit(blocks.hard(run.weak)[keep], indices=keep))"
    ),
    "an auxiliary confidence loss": (
        "return run.student(run.fit(run.weak, run.config(loss=losses.logconf(SETTING, 0.2))))"
    ),
    "soft labels": "return run.student(run.fit(run.weak * SETTING + (1 - SETTING) * blocks.hard(run.weak)))",
}


def researcher(request: dict[str, Any], _number: int) -> Reply:
    """The next step of the study."""
    offered = {str(entry.get("name")) for entry in request.get("tools") or []}
    done = _calls(request["messages"])
    mark = int(hashlib.sha256(_opening(request).encode()).hexdigest()[:8], 16)
    for name, words, calls in _plan(mark):
        usable = [(n, arguments) for n, arguments in calls if n in offered]
        if usable and name not in done:
            blocks = [tool(n, arguments, f"toolu_{name}_{k}") for k, (n, arguments) in enumerate(usable)]
            return tools(*blocks, words=words)
    return text("The study is finished.")


Call = tuple[str, dict[str, Any]]


def _plan(mark: int) -> list[tuple[str, str, list[Call]]]:
    """Steps `(name, words, calls)`; of alternatives for one purpose those that are offered are used."""
    method, what = method_text(mark), f"study-{mark % 10_000:04d}"
    return [
        ("write", "I write the method down.", _write(method)),
        ("pilot", "A pilot first.", [("run_pilot", {"path": PATH})]),
        ("wait", "I wait for it.", [("wait", {"seconds": 1})]),
        ("dev", "What does the evaluator say?", [("submit", {"path": PATH, "name": what, "tier": "dev"})]),
        ("board", "On the board with it.", [("submit", {"path": PATH, "name": what, "tier": "board"})]),
        (
            "tell",
            "The others should know, and I look around meanwhile.",
            [
                ("forum_post", {"kind": "insight", "title": f"What {what} taught", "body": "See the method."}),
                ("forum_search", {"query": "confident"}),
                ("leaderboard", {}),
            ],
        ),
        ("end", "That is all.", [("finish", {})]),
    ]


def _write(method: str) -> list[Call]:
    return [
        ("write_file", {"path": PATH, "content": method}),
        ("str_replace_based_edit_tool", {"command": "create", "path": PATH, "file_text": method}),
    ]


def method_text(mark: int) -> str:
    """The method file of a study."""
    names = sorted(_BODIES)
    what = names[mark % len(names)]
    return _METHOD.format(what=what, setting=round(0.3 + (mark // 7 % 50) / 100, 2), body=_BODIES[what])


def _opening(request: dict[str, Any]) -> str:
    """What tells one conversation from another: system prompt and first message."""
    first = request["messages"][0]["content"]
    return json.dumps([_plain(request.get("system")), _plain(first)], sort_keys=True)


def _plain(content: Any) -> Any:
    if isinstance(content, list):
        return [{k: v for k, v in block.items() if k != "cache_control"} for block in content]
    return [{"type": "text", "text": content}]


def _calls(messages: list[dict[str, Any]]) -> set[str]:
    """Steps whose calls are in the history."""
    ids = [
        str(block.get("id", ""))
        for message in messages
        if message["role"] == "assistant" and isinstance(message["content"], list)
        for block in message["content"]
        if block.get("type") == "tool_use"
    ]
    return {call.split("_")[1] for call in ids if call.startswith("toolu_") and call.count("_") == 2}


def parrot(request: dict[str, Any], _number: int) -> Reply:
    """Says how many messages it got, and nothing else."""
    return text(f"I read {len(request['messages'])} messages.")


BEHAVIOURS: dict[str, Callable[[dict[str, Any], int], Reply]] = {"researcher": researcher, "parrot": parrot}
