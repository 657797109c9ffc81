"""How an item becomes the text that a model reads, and which two tokens answer it.

Promise: everything is concatenated verbatim, no space is added anywhere, and item text is never a template: braces in
it are braces, and a tokenizer's special tokens in it are read as ordinary text (`models.texts.encode`).
"""

from __future__ import annotations

import json
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gpu_pool.weak_to_strong.errors import ItemError

Piece = tuple[str, bool]
"""A part of a text, and whether an item wrote it."""
_Kind = Literal["pair", "binary"]  # the same as items.Kind; items imports this module


@dataclass(frozen=True, slots=True)
class PromptFormat:
    """A text is `body`, with `{prompt}`, `{first}`, `{second}` replaced once, and then `ask` or `ask_prior`.

    `ask` ends a text that is trained on, `ask_prior` one that asks the model's own zero-shot prediction. `labels` are
    the two answers, label 0 first, each exactly one token of the tokenizer; `prior_labels` those of the zero-shot
    question (None: the same). `chat` puts the text into a user turn of the tokenizer's chat template, with the answer
    as the start of the assistant's turn. Texts of more than `max_length` tokens are cut (None: than the model's
    positions allow).
    """

    body: str
    ask: str
    ask_prior: str
    labels: tuple[str, str]
    prior_labels: tuple[str, str] | None = None
    chat: bool = False
    max_length: int | None = None

    def text(self, prompt: str, first: str, second: str, *, prior: bool = False) -> str:
        """The text of one item, ending where the answer would follow (without the chat template)."""
        return self.body.format(prompt=prompt, first=first, second=second) + (self.ask_prior if prior else self.ask)

    def pieces(self, prompt: str, first: str, second: str, *, prior: bool = False) -> list[Piece]:
        """The parts of which `text` is put together, in order."""
        fields = {"prompt": prompt, "first": first, "second": second}
        parts: list[Piece] = []
        for literal, name, _, _ in string.Formatter().parse(self.body):
            parts += [(literal, False), *([] if name is None else [(fields[name], True)])]
        return [*parts, (self.ask_prior if prior else self.ask, False)]

    def answers(self, *, prior: bool = False) -> tuple[str, str]:
        """The two answers of the trained or of the zero-shot question, label 0 first."""
        return self.prior_labels if prior and self.prior_labels is not None else self.labels

    def save(self, path: Path) -> None:
        """Write as JSON."""
        fields = {
            "body": self.body,
            "ask": self.ask,
            "ask_prior": self.ask_prior,
            "labels": list(self.labels),
            "prior_labels": None if self.prior_labels is None else list(self.prior_labels),
            "chat": self.chat,
            "max_length": self.max_length,
        }
        path.write_text(json.dumps(fields, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> PromptFormat:
        """Read what `save` wrote; raises ItemError when a field is missing or of the wrong type."""
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            body, ask, ask_prior, chat = raw["body"], raw["ask"], raw["ask_prior"], raw.get("chat", False)
            limit = raw.get("max_length")
            labels = _two(raw["labels"])
            prior = None if raw.get("prior_labels") is None else _two(raw["prior_labels"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ItemError(f"{path}: not a prompt format (body, ask, ask_prior, labels): {error}") from error
        if not all(isinstance(text, str) for text in (body, ask, ask_prior)) or not isinstance(chat, bool):
            raise ItemError(f"{path}: body, ask and ask_prior must be texts and chat true or false")
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise ItemError(f"{path}: max_length is {limit!r}, expected a number of tokens or null")
        return cls(body, ask, ask_prior, labels, prior, chat, limit)


def _two(raw: object) -> tuple[str, str]:
    if not isinstance(raw, list) or len(raw) != 2 or not all(isinstance(label, str) for label in raw):
        raise TypeError(f"labels are {raw!r}, expected two texts")
    return raw[0], raw[1]


FORMATS: dict[_Kind, PromptFormat] = {
    "pair": PromptFormat("user {prompt} A {first} B {second}", " pick", " better", ("A", "B")),
    "binary": PromptFormat("task {prompt} work {first}", " verdict", " grade", ("wrong", "right")),
}
"""The texts of a word-level tokenizer whose model folder has no `prompt.json`."""

PUBLISHED: dict[_Kind, PromptFormat] = {
    "pair": PromptFormat(
        "Question: {prompt}\nAnswer A: {first}\nAnswer B: {second}\n",
        "Label:",
        "Claim: Answer A is more helpful than Answer B.\nI think this Claim is (True or False):",
        ("A", "B"),
        prior_labels=(" True", " False"),
    ),
    "binary": PromptFormat(
        "Question: {prompt}\nAnswer: {first}\n",
        "Label:",
        "Claim: This answer is correct.\nI think this claim is (True or False):",
        ("False", "True"),
    ),
}
"""The published protocol (automated-w2s-research): question, answers, then `Label:` with A/B or False/True and no space
before it; zero-shot, the truth of a claim about the answers. Of a pair the claim speaks for answer A, so True is label
0. One text differs from the source: its zero-shot question for single answers calls the answer a proposed one. For a
chat model take `dataclasses.replace(PUBLISHED[kind], chat=True)`."""

PUBLISHED_MODELS = {"Qwen/Qwen1.5-0.5B-Chat": True, "Qwen/Qwen3-4B-Base": False}
"""The two published models by hub id, the weak one first: whether each is asked through its chat template."""

PUBLISHED_LENGTH = 8192
"""Tokens at which the published runs cut a text."""
