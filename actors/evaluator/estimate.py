"""The worst case of the evaluator's own work, known before anything starts. Pure.

What SEAL may cost is set aside when a campaign begins, so that no researcher can spend it; a budget that cannot hold
that much is refused at once.
"""

from __future__ import annotations

import math

from actors.evaluator.audits.auditor import AUDITED, LEASES
from actors.evaluator.audits.trials import TRIALS
from actors.evaluator.jobs import Sizes
from actors.evaluator.tiers import CEILINGS, seeds_of
from cluster.config import CampaignConfig, ConfigError
from cluster.money import MICRO, MS_PER_HOUR, Amounts, gpu_cost, gpu_ms, usd_from_decimal


def _cost(config: CampaignConfig, seconds: float) -> Amounts:
    used = gpu_ms(config.runs.full_gpus, int(1000 * seconds))
    return Amounts(usd=gpu_cost(used, usd_from_decimal(config.pool.usd_per_gpu_hour)), gpu_ms=used)


def sealing(config: CampaignConfig, baselines: int) -> Amounts:
    """The most that SEAL takes: audits, `baselines` and finalists on every domain, with ceilings of their own."""
    sizes = Sizes.of(config)
    own, seeds = sizes.own(), range(seeds_of("seal", config.scoring))
    finalists = config.scoring.finalists * sum(sizes.lease_seconds(len(chunk)) for chunk in sizes.chunks(seeds))
    compared = baselines * sum(own.lease_seconds(len(chunk)) for chunk in own.chunks(seeds))
    ceilings = sum(own.lease_seconds(len(chunk)) for chunk in own.chunks(range(CEILINGS["seal"])))
    domain = finalists + compared + ceilings + _audits(config, sizes)
    others = config.runs.predict_seconds * (len(config.task.domains) - 1)
    return _cost(config, domain * len(config.task.domains) + others)


def _audits(config: CampaignConfig, sizes: Sizes) -> float:
    """Seconds of leases that audit as many candidates as may be audited on one domain, with what all audits share."""
    each = LEASES * sizes.lease_seconds(math.ceil(len(TRIALS) / LEASES))
    return AUDITED * config.scoring.finalists * each + sizes.own().lease_seconds(1) + 2 * sizes.predict_seconds


def largest_lease(config: CampaignConfig) -> Amounts:
    """The dearest lease of preparation; the others may wait for what it gives back."""
    sizes = Sizes.of(config).own()
    return _cost(config, max(sizes.pretrain_seconds + sizes.slack_seconds, sizes.lease_seconds(sizes.seeds_per_lease)))


def check_budget(config: CampaignConfig, baselines: int) -> None:
    """Raises `ConfigError` when the campaign's caps cannot hold SEAL and the dearest lease of preparation."""
    need = sealing(config, baselines) + largest_lease(config)
    caps = config.budget.campaign.caps()
    dimension = caps.exceeded_by(need)
    if dimension is None:
        return
    name, unit = ("usd", MICRO) if dimension == "usd" else ("gpu_hours", MS_PER_HOUR)
    value, expected = getattr(config.budget.campaign, name), getattr(need, dimension) / unit
    raise ConfigError(
        f"budget.campaign.{name}: {value:g} cannot pay for preparation and SEAL at their worst; expected at least "
        f"{expected:.2f} (or fewer scoring.seal_seeds or finalists, or a smaller runs.seed_seconds or pretrain_seconds)"
    )
