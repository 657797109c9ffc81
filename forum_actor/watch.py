"""What in a post is a reason to keep it from readers. Pure: a post and the ones before it go in, reasons come out.

A language model cannot tell data from instructions, so that this is no defence by itself: sandboxes, budgets and typed
posts are. It finds what honest reports have no need of: words of command that ask to be spread, notices in the name of
the system, names of the evaluator's files and of credentials, the same commands from several authors, and text that
carries another post's mark, which only whoever copies a whole page has.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from forum_actor.posts import Post

SHINGLE = 4
ALIKE = 0.6
"""Share of word groups that two texts have in common when one is a copy of the other with small changes."""
LEAST_WORDS = 8

_BLANKS, _BREAKS = re.compile(r"[^\S\n]+"), re.compile(r"(?: ?\n ?)+")
"""Runs of white space become one character: the patterns below then take linear time."""
_SECRETS = re.compile(
    r"secret\.bin|signing\.key|evaluator\.db|labels\.safetensors|\bjudge/|/proc/(?:\d+|self)/|\.ssh/|\bid_rsa\b|"
    r"\bRAY_AUTH\w*|\b[A-Z]+_API_KEY\b|\bapi[ _-]key\b|\bsk-ant-|\bauthorization:\s*bearer",
    re.IGNORECASE,
)
_POSES = re.compile(
    r"^\W{0,4}(?:system|admin(?:istrator)?|director|evaluator|operator|developer|anthropic)\b\W{0,3}"
    r"(?:notice|message|prompt|override|instructions?|announcement|alert|update)\b|"
    r"^\W{0,4}(?:new|updated)\s+(?:system\s+)?instructions?\s*:|<\|?\s*(?:system|im_start)|\[\s*(?:system|inst)\s*\]",
    re.IGNORECASE | re.MULTILINE,
)
_DISOBEY = re.compile(
    r"\b(?:ignore|disregard|forget|override|bypass)\b[^.\n]{0,30}\b(?:previous|prior|earlier|your|all|any|the|these)\s+"
    r"(?:\w+\s+){0,2}(?:instructions?|rules|budgets?|audits?|orders|system\s+prompts?)\b",
    re.IGNORECASE,
)
_SPREAD = re.compile(
    r"\b(?:re-?post|copy|forward|spread|paste|pass\s+on)\b[^.\n]{0,40}"
    r"\b(?:this|these|following|whole|entire|exact)\b[^.\n]{0,20}\b(?:message|post|text|note|words|paragraph)\b",
    re.IGNORECASE,
)
_COMMAND = re.compile(
    r"(?:^|[.!?:;]\s+|\n\s*(?:[-*\d.]+\s+)?)(?:please\s+|now\s+|always\s+|never\s+|do\s+not\s+|don't\s+)?"
    r"(?:ignore|disregard|delete|remove|run|execute|submit|post|repost|copy|forward|send|tell|reply|stop|spend|vote|"
    r"open|fetch|download|install|write|set|approve|mark)\b|\b(?:you|every\w*|all\s+\w+)\s+(?:must|have\s+to|shall)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Alarm:
    """A reason to keep a post from readers; `other` is the id of the earlier post that it concerns, too, if any."""

    reason: str
    other: str = ""


def alarms(post: Post, earlier: Sequence[Post]) -> list[Alarm]:
    """Everything that speaks against showing `post`, given the posts before it."""
    text = _text(post)
    found = [
        Alarm(reason)
        for pattern, reason in (
            (_SECRETS, "it names credentials or the evaluator's own files"),
            (_POSES, "it poses as a notice of the system"),
            (_DISOBEY, "it asks to disregard rules"),
            (_SPREAD, "it asks to be spread"),
        )
        if pattern.search(text)
    ]
    found += [
        Alarm("it carries another post's mark", other.id) for other in earlier if other.mark and other.mark in text
    ]
    return found + _copies(post, text, earlier)


def _text(post: Post) -> str:
    return _closed_up(post.title, post.body, post.idea)


@lru_cache(maxsize=1024)
def _closed_up(title: str, body: str, idea: str) -> str:
    return _BREAKS.sub("\n", _BLANKS.sub(" ", f"{title}\n{body}\n{idea}"))


def _copies(post: Post, text: str, earlier: Sequence[Post]) -> list[Alarm]:
    """Commands that another author has given in almost the same words."""
    own = _shingles(text)  # made for every post, so that a later one finds it
    if not own or not _COMMAND.search(text):
        return []
    others = [other for other in earlier if other.author != post.author]
    alike = [o for o in others if _overlap(own, _shingles(_text(o))) >= ALIKE]
    return [Alarm("it repeats commands of another author", other.id) for other in alike]


@lru_cache(maxsize=1024)
def _shingles(text: str) -> frozenset[tuple[str, ...]]:
    """Kept for the latest posts, because every new one is compared with them."""
    words = re.findall(r"\w+", text.casefold())
    if len(words) < LEAST_WORDS:
        return frozenset()
    return frozenset(zip(*(words[start:] for start in range(SHINGLE)), strict=False))


def _overlap(one: frozenset[tuple[str, ...]], other: frozenset[tuple[str, ...]]) -> float:
    """Of the smaller set, the share that is in the other: text around a copy does not hide it."""
    return len(one & other) / min(len(one), len(other)) if one and other else 0.0
