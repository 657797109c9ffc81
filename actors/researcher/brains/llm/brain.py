"""The brain that is a language model behind the Messages API, reached through the gateway.

Promises:
- A request is made of the configuration and the transcript alone. Keys of calls are `<researcher>/<turn>/<step>`, so
  that a decision that was cut short is made again from the same answers and nothing is paid twice.
- Whatever stops an answer, the decision goes on: a paused answer is sent back, one that was cut off is asked for again,
  a full window is emptied, a withheld answer is left out, and one without a call is an empty turn.
- A history that the endpoint does not take is summarised, then cut by half again and again until it is taken; one that
  makes it withhold its answers is dropped.
- The last turn is cheap: a short answer after the whole history, and when that cannot be paid a short answer after the
  notebook alone, and when that cannot be paid the notebook itself as a post.
- Older history is compacted by the endpoint where it can, else by one more call of the model.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from actors.gateway.client import GatewayClient
from actors.researcher.brains.llm.answers import Answer, Verdict, clean, read, text_of
from actors.researcher.brains.llm.conversation import Conversation
from actors.researcher.brains.llm.requests import Requests, without_compaction
from actors.researcher.brains.llm.wording import whats_new
from actors.researcher.types import Decision, Observation, ToolCall
from cluster.errors import RefusedError
from forum_actor.posts import fitting

log = logging.getLogger(__name__)
MAX_STEPS = 6
"""Calls of the model in one turn: an answer that pauses or is cut off more often is an empty turn."""
LAST_TOKENS = 2500
SUMMARY_TOKENS = 3000
KEEP_SHARE = 1.0
"""Characters of the newest messages that stay beside a summary, per token of `compact_at`: a quarter of the window."""
NOTEBOOK_CHARS = 6000
TOO_LONG = ("context_too_long", "too_large")
UNREADABLE = (*TOO_LONG, "bad_request")
"""Refusals after which a shorter history may be taken."""
LOST = "lost"
"""The refusal of a key whose answers were paid for and lost; another key may be asked."""
MOST_WITHHELD = 2
"""Withheld answers in a row after which the history goes, because something in it is the cause."""
CUT = (
    "Your last answer was cut off at its limit of output tokens before it called a tool. Answer in smaller steps: a "
    "short thought, then a tool call; write long files in parts."
)
WITHHELD = "Your last answer was withheld by a safety filter and is not shown to you. Go on with your research."
SUMMARISE = (
    "The conversation has grown too long and is about to be cut. Write down, in text and without calling a tool, what "
    "you need in order to go on: what you know and how you know it (with record ids), what you tried and how it went, "
    "what runs, what you would do next. Be brief and exact."
)
LAST = (
    "This is your last turn: {why}. Nothing that costs anything will run any more. Tell the others in one or two "
    "posts what you learned, what worked, what failed, and what you would try next."
)
SUMMARY = "Older parts of this conversation were cut. Your own summary of them:\n\n{text}"
NO_SUMMARY = "Older parts of this conversation were cut and could not be summarised."
NOTEBOOK = "\n\nYour notebook (notebook.md) as it stands:\n\n{text}"


class LanguageModel:
    """See the module."""

    def __init__(self, requests: Requests, model: GatewayClient, notebook: Callable[[], str]) -> None:
        """`notebook()` is the text of the researcher's notebook, "" when there is none."""
        self._requests = requests
        self._model = model
        self._notebook = notebook
        self._known = Conversation()
        self._turns = 0
        """How many turns `_known` holds: a cache, so that a turn costs the same after a thousand others."""

    async def decide(self, observation: Observation) -> Decision:
        """The turn's calls, and all that was said to come to them."""
        for turn in observation.history[self._turns :]:
            self._known.add_turn(turn)
        self._turns = len(observation.history)
        talk = self._known.copy()
        opening = self._opening(talk, observation)
        if observation.seen.ending:
            return await self._decide_last_turn(observation, talk, opening)
        return await _TurnDecision(self, observation, talk).decide(opening)

    def _opening(self, talk: Conversation, observation: Observation) -> dict[str, Any]:
        """The message that opens the turn: results of the last turn's calls, then what is new."""
        history = observation.history
        results = talk.results(history[-1].done if history else ())
        new = whats_new(observation.turn, observation.seen)
        return {"role": "user", "content": [*results, {"type": "text", "text": new}]}

    async def ask(self, key: str, request: dict[str, Any]) -> dict[str, Any]:
        """One answer, as an entry. Raises `RefusedError`."""
        researcher = key.split("/")[0]
        if not self._requests.compacts:
            request = without_compaction(request)
        try:
            answer = await self._model.call(key, researcher, request)
        except RefusedError as error:
            if not self._requests.gives_up_compaction(error):
                raise
            log.warning("%s: the endpoint cannot compact, so the history is summarised here: %s", researcher, error)
            return await self.ask(key, request)
        return {**clean(answer.message), "charged": answer.charged}

    async def _decide_last_turn(
        self, observation: Observation, talk: Conversation, opening: dict[str, Any]
    ) -> Decision:
        """The last turn, as cheap as it has to be."""
        word = {"type": "text", "text": LAST.format(why=observation.seen.ending)}
        whole = {"role": "user", "content": [*opening["content"], word]}
        talk.add(whole)
        short = {"role": "user", "content": [{"type": "text", "text": self._with_notebook(NO_SUMMARY)}, word]}
        alone = Conversation([short])
        for name, said, request in (
            ("last", [whole], self._requests.last(talk.messages, LAST_TOKENS)),
            ("alone", [short], self._requests.alone(alone.messages, LAST_TOKENS)),
        ):
            try:
                entry = await self.ask(f"{observation.researcher}/{observation.turn}/{name}/0", request)
            except RefusedError as error:
                if error.reason not in ("over_budget", *UNREADABLE):
                    raise
                log.info("%s: its last turn is made cheaper: %s", observation.researcher, error)
            else:
                calls = read(entry).calls or _post(observation, "What I learned", fitting(text_of(entry)))
                return Decision(calls, (*said, entry))
        return Decision(_post(observation, "My notebook at the end", fitting(self._notebook(), end=True)), (whole,))

    def summary_text(self, entry: dict[str, Any]) -> str:
        """What stands in place of older messages after the model summarised them."""
        text = text_of(entry)
        return self._with_notebook(SUMMARY.format(text=text) if text else NO_SUMMARY)

    def _with_notebook(self, words: str) -> str:
        notebook = self._notebook()[-NOTEBOOK_CHARS:]
        return words + (NOTEBOOK.format(text=notebook) if notebook else "")

    def forgotten_text(self) -> str:
        """What stands in place of older messages that no model could read any more."""
        return self._with_notebook(NO_SUMMARY)

    @property
    def requests(self) -> Requests:
        """How requests are made."""
        return self._requests


class _TurnDecision:
    """The decision of one turn: the conversation with it, and what was said so far."""

    def __init__(self, brain: LanguageModel, observation: Observation, talk: Conversation) -> None:
        self._brain = brain
        self._requests = brain.requests
        self._prefix = f"{observation.researcher}/{observation.turn}"
        self._talk = talk
        self._said: list[dict[str, Any]] = []
        self._steps = 0
        self._room = int(KEEP_SHARE * self._requests.compact_at)
        """Characters of the newest messages that stay when older ones go; half as many each time."""
        self._summarised = False

    async def decide(self, opening: dict[str, Any]) -> Decision:
        """Ask until there is something to act upon."""
        full = self._talk.tokens > self._requests.most_tokens
        self._add_entry(opening)
        if full:
            await self._summarise_history()
        answer = Answer((), Verdict.ACT)
        while self._steps < MAX_STEPS:
            answer = await self._step()
            if answer.verdict is Verdict.ACT:
                break
            if answer.verdict is Verdict.WITHHELD:
                if self._talk.withheld < MOST_WITHHELD:
                    self._prompt_model(WITHHELD)
                    break
                log.warning("%s: its history was dropped: its answers were withheld", self._prefix)
                self._replace_history(self._brain.forgotten_text(), None, keep=0)
            if answer.verdict in (Verdict.CUT, Verdict.FULL):
                self._prompt_model(CUT)
            if answer.verdict is Verdict.FULL:
                self._halve_room()
                await self._summarise_history()
        return Decision(answer.calls, tuple(self._said))

    def _add_entry(self, entry: dict[str, Any]) -> None:
        self._said.append(entry)
        self._talk.add(entry)

    def _prompt_model(self, words: str) -> None:
        """A word to the model within the turn, after results for what it called in vain."""
        unanswered = self._talk.results(())
        self._add_entry({"role": "user", "content": [*unanswered, {"type": "text", "text": words}]})

    async def _step(self) -> Answer:
        """One answer; a history that the endpoint does not take is made shorter until it does.

        Answers that were paid and lost on the way as often as the gateway allows leave the question: it is a new one.
        """
        key = f"{self._prefix}/model/{self._steps}"
        self._steps += 1
        while True:
            try:
                entry = await self._brain.ask(key, self._requests.turn(self._talk.messages, self._talk.tokens))
            except RefusedError as error:
                if error.reason == LOST:
                    log.warning("%s: %s", self._prefix, error)
                    return Answer((), Verdict.GO_ON)
                if error.reason not in UNREADABLE or not await self._shorten_history(error):
                    raise
                log.warning("%s: its history was cut: %s", self._prefix, error)
            else:
                self._add_entry(entry)
                return read(entry)

    async def _shorten_history(self, error: RefusedError) -> bool:
        """Make the history shorter, with a summary where one can still be had; whether that was possible."""
        self._halve_room()
        if error.reason in TOO_LONG and not self._summarised and len(self._talk.messages) > 1:
            await self._summarise_history()
            return True
        return self._forget_history()

    def _halve_room(self) -> None:
        self._room = min(self._room, self._talk.chars) // 2

    async def _summarise_history(self) -> None:
        """Have the model sum up what is older than the newest messages; if it cannot, forget it."""
        self._summarised = True
        instruction = {"role": "user", "content": [{"type": "text", "text": SUMMARISE}]}
        asked = self._talk.copy()
        asked.add(instruction)
        try:
            request = self._requests.last(asked.messages, SUMMARY_TOKENS)
            entry = await self._brain.ask(f"{self._prefix}/summary/{self._steps}", request)
        except RefusedError as error:
            if error.reason not in UNREADABLE:
                raise
            self._forget_history()
            return
        self._replace_history(self._brain.summary_text(entry), entry, self._talk.tail(self._room))

    def _forget_history(self) -> bool:
        """Drop older messages without a summary, at last even the newest; whether there were any."""
        if len(self._talk.messages) < 2:
            return False
        keep = self._talk.tail(self._room)
        nothing_older = len(self._talk.messages) - keep == 1 and self._said[-1]["role"] == "summary"
        self._replace_history(self._brain.forgotten_text(), None, 0 if nothing_older else keep)
        return True

    def _replace_history(self, text: str, paid: dict[str, Any] | None, keep: int) -> None:
        entry: dict[str, Any] = {"role": "summary", "content": text, "keep": keep}
        if paid is not None:
            entry |= {"usage": paid["usage"], "charged": paid["charged"]}
        self._add_entry(entry)


def _post(observation: Observation, title: str, body: str) -> tuple[ToolCall, ...]:
    """A last post that the model did not make itself; none without words or a forum."""
    if "forum_post" not in observation.tools or not body:
        return ()
    return (ToolCall("forum_post", {"kind": "insight", "title": title, "body": body}, "its last words"),)
