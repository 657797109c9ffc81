"""Refuse a brain that could not make its first call, or that its own server could not serve, before anything starts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from actors.gateway.keys import KeyFileError, key_of
from actors.gateway.model_server import serve_request
from actors.gateway.pricing import tariff_of
from actors.gateway.replayer import open_recording
from actors.scheduler.admission import check_request
from cluster.config import Brain, CampaignConfig, ConfigError, Serve
from cluster.config.prices import SHIPPED_PRICES
from cluster.money import Amounts, usd_from_decimal
from gpu_pool.serving.command import ServeError, check_model, interpreter_prefixes

_UNITS = {"": 1, "k": 1000, "m": 1000**2, "K": 1 << 10, "M": 1 << 20}
"""Of vLLM's numbers, such as 32k."""
NOTHING = Amounts()
ASK_SECONDS = 5.0
_MOST_BYTES = 1 << 20


def check_serve(config: CampaignConfig, beside: Amounts = NOTHING) -> None:
    """The model has a folder and a name of its own, the interpreter is there, the brain's requests fit the model's
    window, and the campaign can pay for one server `beside` what else it sets aside. Raises ConfigError.
    """
    if config.serve.model is None:
        raise ConfigError(
            "brain.kind: a local brain needs a server; expected brain.base_url of one that runs, or serve.model, the "
            "folder of a model to be served from the pool"
        )
    if config.brain.model in SHIPPED_PRICES:
        raise ConfigError(
            f"brain.model: {config.brain.model!r} is a vendor's model with a price per token; expected a name of its "
            "own for the model that the campaign serves: --set brain.model=NAME"
        )
    try:
        folder = check_model(config.serve)
        interpreter_prefixes(config.serve)
    except ServeError as error:
        raise ConfigError(str(error)) from error
    check_window(config.brain, window_of(config.serve, folder))
    price = usd_from_decimal(config.pool.usd_per_gpu_hour)
    worst = check_request(serve_request(config, 1), price).worst
    over = config.budget.campaign.caps().exceeded_by(worst + beside)
    if over is not None:
        cost = f"{worst.usd / 1e6:.2f} dollars, {worst.gpu_ms / 3.6e6:.2f} GPU-hours"
        raise ConfigError(
            f"serve.lease_minutes: {config.serve.lease_minutes:g} is not valid; expected so few that the worst case of "
            f"one server ({cost}) fits budget.campaign ({over}) beside what is set aside for SEAL"
        )


def check_running(brain: Brain, key: str | None) -> None:
    """The brain's requests fit the window that the server at `brain.base_url` tells; one that tells none, or does not
    answer yet, is taken as it is. Raises ConfigError.
    """
    check_window(brain, told_window(brain, key))


def check_window(brain: Brain, window: int | None) -> None:
    """A history that is about to be compacted fits the model's window of so many tokens with an answer to it; nothing
    is known of `None`. Raises ConfigError.
    """
    if window is None or brain.compact_at + brain.max_tokens <= window:
        return
    answer = min(brain.max_tokens, window // 4)
    raise ConfigError(
        f"brain.compact_at: {brain.compact_at} with brain.max_tokens {brain.max_tokens} is not valid; expected at most "
        f"{window} together, the window of the model, and some room for results of tools: "
        f"--set brain.compact_at={window // 2} --set brain.max_tokens={answer}"
    )


def window_of(serve: Serve, folder: Path) -> int | None:
    """The server's window in tokens: its argument `--max-model-len`, else what the model's configuration says; `None`
    when neither does.
    """
    for name, value in _options(serve.arguments):
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmM]?)", value)
        if name == "max-model-len" and found:
            return int(float(found[1]) * _UNITS[found[2]])
    try:
        about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return _positions(about) or _positions(about.get("text_config")) if isinstance(about, dict) else None


def told_window(brain: Brain, key: str | None) -> int | None:
    """The model's window in tokens as a running vLLM tells it."""
    bearer = {} if key is None else {"Authorization": f"Bearer {key}"}
    request = Request(f"{(brain.base_url or '').rstrip('/')}/v1/models", headers=bearer)
    try:
        with build_opener(_Stays).open(request, timeout=ASK_SECONDS) as answer:
            listed = json.loads(answer.read(_MOST_BYTES))["data"]
        found = {model["id"]: model.get("max_model_len") for model in listed}.get(brain.model)
    except (OSError, HTTPException, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if isinstance(found, int) and found > 0 else None


class _Stays(HTTPRedirectHandler):
    """The key goes to the configured address alone."""

    def redirect_request(self, *_: Any) -> None:
        """Nowhere else."""


def _positions(about: Any) -> int | None:
    found = about.get("max_position_embeddings") if isinstance(about, dict) else None
    return found if isinstance(found, int) and found > 0 else None


def _options(arguments: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Names and values of a command line, given as `--name value` or `--name=value`."""
    for argument, following in pairwise((*arguments, "")):
        if argument.startswith("--"):
            name, given, value = argument[2:].partition("=")
            yield name.replace("_", "-"), value if given else following


def check_brain(
    config: CampaignConfig, key: str | None = None, run_dir: Path | None = None, beside: Amounts = NOTHING
) -> None:
    """Refuse a brain that could not make its first call. Raises `ConfigError`.

    `key` is what the driver was started with; `run_dir` the directory of a campaign that is resumed; `beside` what the
    campaign sets aside at its start.
    """
    brain = config.brain
    if config.diversity.model is not None and (not brain.calls_model or brain.served):
        raise ConfigError(
            f"diversity.model: {config.diversity.model!r} cannot be asked by a campaign whose brains call no endpoint; "
            f"expected none, or another brain"
        )
    if not brain.calls_model:
        return
    tariff_of(config)
    if brain.kind == "replay":
        if brain.replay_of is None:
            raise ConfigError("brain.replay_of: missing; expected the directory of the campaign to replay")
        open_recording(Path(brain.replay_of)).close()
        return
    if brain.served:
        check_serve(config, beside)
        return
    try:
        if key is None or brain.key_file is not None:
            key = key_of(brain, run_dir)
    except KeyFileError as error:
        raise ConfigError(f"brain.key_file: {error}") from error
    if key is not None and brain.base_url is not None and not _private(brain.base_url):
        raise ConfigError(
            f"brain.base_url: {brain.base_url!r} would send the key in clear text; expected https, or this machine"
        )
    if brain.kind == "local" and run_dir is None:  # a history that outgrows the window is cut: no reason not to resume
        check_running(brain, key)


def _private(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or parts.hostname in ("127.0.0.1", "localhost", "::1")
