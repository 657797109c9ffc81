"""The configuration of a campaign: schema, presets, validation. Imports neither ray nor torch."""

from cluster.config.document import ConfigError
from cluster.config.load import dump_config, load_config, load_stored, preset_names, validate
from cluster.config.prices import Price
from cluster.config.schema import (
    Brain,
    Budget,
    Budgets,
    CampaignConfig,
    Direction,
    Diversity,
    Forum,
    Gateway,
    Pool,
    Research,
    Researchers,
    Runs,
    Scoring,
    Serve,
    Task,
    TaskFiles,
)
from cluster.training import Training

__all__ = [
    "Brain",
    "Budget",
    "Budgets",
    "CampaignConfig",
    "ConfigError",
    "Direction",
    "Diversity",
    "Forum",
    "Gateway",
    "Pool",
    "Price",
    "Research",
    "Researchers",
    "Runs",
    "Scoring",
    "Serve",
    "Task",
    "TaskFiles",
    "Training",
    "dump_config",
    "load_config",
    "load_stored",
    "preset_names",
    "validate",
]
