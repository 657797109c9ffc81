"""The vendor's Messages endpoint through the vendor's client, one attempt at a time.

Every answer is streamed: a long one would run into time-outs otherwise, and the input side of the bill is known as
soon as it begins. Retries are not the client's but the gateway's. Errors that leave here hold no header and no key. The
key goes to the configured address alone: a redirect is a failure. After a refused key the next attempt reads it again,
so that a new one takes effect at once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from actors.gateway.keys import KeyFileError
from actors.gateway.requests import Body, Parts
from actors.gateway.retries import AttemptFailedError, Failure, failure_of_connection, failure_of_status
from cluster.config import Brain, Gateway
from cluster.errors import Reason

Begun = Callable[[dict[str, Any]], None]
"""Told once, with the usage that opens an answer: from then on the input side of the bill is known."""


class Transport(Protocol):
    """One attempt at one call."""

    async def send(self, key: str, body: Body, parts: Parts, begun: Begun) -> dict[str, Any]:
        """The whole message as plain data. Raises `AttemptFailedError`; cancelled, it leaves the end unknown."""

    def status(self) -> dict[str, Any]:
        """What a person may want to know of it; no secrets."""

    async def close(self) -> None:
        """Let connections go; to close it again changes nothing."""


MALFORMED = "malformed_json"
_JOINED = {"text_delta": "text", "thinking_delta": "thinking"}


class Accumulator:
    """Takes the events of one stream in order. What it does not know it passes over."""

    def __init__(self) -> None:
        self.message: dict[str, Any] | None = None
        self.complete = False
        self._inputs: dict[int, list[str]] = {}

    def add(self, event: dict[str, Any]) -> None:
        """One event. Raises `ValueError` when it does not fit what came before."""
        kind = event.get("type")
        if kind == "message_start":
            self.message = {**event["message"], "content": []}
        elif kind == "message_stop":
            self.complete = self.message is not None
        elif kind in ("content_block_start", "content_block_delta", "content_block_stop", "message_delta"):
            if self.message is None:
                raise ValueError(f"{kind} before message_start")
            getattr(self, f"_{kind}")(self.message, event)

    def _content_block_start(self, message: dict[str, Any], event: dict[str, Any]) -> None:
        message["content"].append(dict(event["content_block"]))

    def _content_block_delta(self, message: dict[str, Any], event: dict[str, Any]) -> None:
        block, delta = self._block(message, event), event["delta"]
        kind = delta.get("type")
        if kind in _JOINED:
            name = _JOINED[kind]
            block[name] = (block.get(name) or "") + delta[name]
        elif kind == "input_json_delta":
            self._inputs.setdefault(event["index"], []).append(delta["partial_json"])
        elif kind == "citations_delta":
            block["citations"] = [*(block.get("citations") or []), delta["citation"]]
        else:
            block.update({name: value for name, value in delta.items() if name != "type"})

    def _content_block_stop(self, message: dict[str, Any], event: dict[str, Any]) -> None:
        text = "".join(self._inputs.pop(event["index"], []))
        if text:
            self._block(message, event)["input"] = parse_input(text)

    @staticmethod
    def _block(message: dict[str, Any], event: dict[str, Any]) -> dict[str, Any]:
        index = event["index"]
        if not isinstance(index, int) or not 0 <= index < len(message["content"]):
            raise ValueError(f"no content block {index}")
        block: dict[str, Any] = message["content"][index]
        return block

    @staticmethod
    def _message_delta(message: dict[str, Any], event: dict[str, Any]) -> None:
        message.update({name: value for name, value in event["delta"].items() if value is not None})
        told = {name: value for name, value in (event.get("usage") or {}).items() if value is not None}
        message["usage"] = {**(message.get("usage") or {}), **told}
        if event.get("context_management") is not None:
            message["context_management"] = event["context_management"]


def parse_input(text: str) -> dict[str, Any]:
    """The arguments of a tool call, or `{"malformed_json": text}`."""
    try:
        value = json.loads(text)
    except ValueError:
        return {MALFORMED: text}
    return value if isinstance(value, dict) else {MALFORMED: text}


VENDOR_URL = "https://api.anthropic.com"
MESSAGES = "/v1/messages?beta=true"
NO_KEY = "none"
"""What an endpoint without keys is sent."""
CONNECT_S = 15.0
SILENCE_S = 120.0
"""A stream without even a ping for so long is dead."""
_QUIET = ("anthropic", "httpx2", "httpcore2", "httpx", "httpcore")


class Endpoint:
    """A transport to one base address with one key at a time."""

    def __init__(self, brain: Brain, gateway: Gateway, read_key: Callable[[], str | None]) -> None:
        """`read_key` gives the key that holds now, `None` where none is needed. Raises what it raises."""
        os.environ.pop("ANTHROPIC_LOG", None)  # the client logs requests when it is set
        os.environ.pop("ANTHROPIC_CUSTOM_HEADERS", None)
        import anthropic
        import httpx2

        for name in _QUIET:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._sdk, self._http = anthropic, httpx2
        self._read_key, self._secret, self._refused = read_key, read_key(), False
        self._seconds = gateway.call_seconds
        self._bearer = brain.kind == "local"  # vLLM takes a key as `Authorization: Bearer` alone
        self._client = anthropic.AsyncAnthropic(
            api_key=None if self._bearer else self._secret or NO_KEY,
            auth_token=self._secret or NO_KEY if self._bearer else None,
            base_url=brain.base_url or VENDOR_URL,
            max_retries=0,
            http_client=anthropic.DefaultAsyncHttpxClient(follow_redirects=False),
            timeout=httpx2.Timeout(gateway.call_seconds, connect=CONNECT_S, read=min(SILENCE_S, gateway.call_seconds)),
        )

    async def send(self, key: str, body: Body, parts: Parts, begun: Begun) -> dict[str, Any]:
        """As `Transport.send`."""
        if self._refused:
            self._renew()
        secret, answer = self._secret, Accumulator()
        try:
            async with asyncio.timeout(self._seconds):
                await self._stream(body, answer, begun)
            failure = None if answer.complete else Failure(Reason.UNAVAILABLE, "the stream broke off", True, True)
        except self._sdk.APIStatusError as error:
            failure = failure_of_status(
                error.status_code, error.body, error.response.headers, answer.message is not None
            )
        except (self._sdk.APIConnectionError, self._http.HTTPError) as error:
            cause = error.__cause__ or error
            unsent = (self._http.ConnectError, self._http.ConnectTimeout, self._http.PoolTimeout)
            failure = failure_of_connection(type(cause).__name__, billed=not isinstance(cause, unsent))
        except TimeoutError:
            failure = Failure(Reason.UNAVAILABLE, f"no answer within {self._seconds:g} s", again=True, billed=True)
        except (ValueError, KeyError, TypeError, self._sdk.AnthropicError) as error:
            failure = Failure(Reason.UNAVAILABLE, f"the stream cannot be read: {type(error).__name__}", True, True)
        if failure is not None:
            self._refused = self._refused or failure.reason == "bad_key"
            raise AttemptFailedError(_scrubbed(failure, secret))
        return _plain(answer.message or {})

    async def _stream(self, body: Body, answer: Accumulator, begun: Begun) -> None:
        """The client's own request and stream, with the body as text and events as plain data: to walk through the
        body once more, and to make typed objects of each piece of an answer and plain data of them again, takes longer
        than all else that the client does.
        """
        fields = {name: value for name, value in body.fields.items() if name != "betas"}
        betas = body.fields.get("betas")
        events = await self._client.post(
            MESSAGES,
            content=json.dumps({**fields, "stream": True}, ensure_ascii=False, allow_nan=False).encode(),
            options={"headers": {"anthropic-beta": ",".join(betas)}} if betas else {},
            cast_to=object,
            stream=True,
            stream_cls=self._sdk.AsyncStream[object],
        )
        async with events:
            async for data in events:
                if not isinstance(data, dict):
                    raise ValueError("an event is no object")
                answer.add(data)
                if data.get("type") == "message_start":
                    begun(data["message"].get("usage") or {})

    def _renew(self) -> None:
        """Read the key again. Raises `AttemptFailedError` "bad_key" when it cannot be read."""
        try:
            self._secret = self._read_key()
        except KeyFileError as error:
            raise AttemptFailedError(Failure(Reason.BAD_KEY, str(error))) from error
        self._refused = False
        if self._bearer:
            self._client.auth_token = self._secret or NO_KEY
        else:
            self._client.api_key = self._secret or NO_KEY

    def status(self) -> dict[str, Any]:
        """As `Transport.status`."""
        return {}

    async def close(self) -> None:
        """As `Transport.close`."""
        await self._client.close()


def _scrubbed(failure: Failure, secret: str | None) -> Failure:
    """The failure without the key, should an endpoint repeat it."""
    if not secret or secret not in failure.message:
        return failure
    return replace(failure, message=failure.message.replace(secret, "[key]"))


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    """The message as JSON of valid Unicode: half a surrogate pair could not be sent back."""
    text = json.dumps(message, ensure_ascii=False).encode("utf-8", "replace")
    plain: dict[str, Any] = json.loads(text)
    return plain
