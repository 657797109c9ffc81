"""Refuse a `serve` section that could not serve a campaign's brains, before anything starts."""

from __future__ import annotations

from actors.scheduler.admission import check_request
from actors.serving.desk import serve_request
from cluster.config import CampaignConfig, ConfigError
from cluster.money import usd_from_decimal
from gpu_pool.serving.command import ServeError, check_model, interpreter_prefixes


def check_serve(config: CampaignConfig) -> None:
    """The model's folder and the interpreter are there, and the campaign can pay for one server. Raises ConfigError."""
    if config.serve.model is None:
        raise ConfigError(
            "brain.kind: a local brain needs a server; expected brain.base_url of one that runs, or serve.model, the "
            "folder of a model to be served from the pool"
        )
    try:
        check_model(config.serve)
        interpreter_prefixes(config.serve)
    except ServeError as error:
        raise ConfigError(str(error)) from error
    price = usd_from_decimal(config.pool.usd_per_gpu_hour)
    worst = check_request(serve_request(config, 1), price).worst
    over = config.budget.campaign.caps().exceeded_by(worst)
    if over is not None:
        cost = f"{worst.usd / 1e6:.2f} dollars, {worst.gpu_ms / 3.6e6:.2f} GPU-hours"
        raise ConfigError(
            f"serve.lease_minutes: {config.serve.lease_minutes:g} is not valid; expected so few that the worst case of "
            f"one server ({cost}) fits budget.campaign ({over})"
        )
