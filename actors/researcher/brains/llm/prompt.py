"""The system prompt: a template that the configuration may replace.

Promise: it depends on the configuration, the task and the researcher only, never on the time or the state of a
campaign, so that it is the same in every call and after every restart, and stays in the prompt cache.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError

from cluster.config import CampaignConfig, ConfigError
from cluster.file_kind import why_not_text

FOLDER = Path(__file__).parent / "prompts"
DEFAULT = "researcher.md.j2"
_EXAMPLE_TASK = {"domain": "math", "description": "An example.", "n_items": 1, "disguised": True}


def system_prompt(config: CampaignConfig, researcher: str, direction: str, task: dict[str, Any]) -> str:
    """The prompt of a researcher. Raises `ConfigError` when the template cannot be used.

    A template gets `researcher` (its id), `team` (how many there are), `direction`, `task` (the public task.json),
    `transfer` (other domains), `budget` (lines), `forum` (whether there is one), and may include the shipped ones.
    """
    name = config.brain.prompt_file or DEFAULT
    values = {
        "researcher": researcher,
        "team": len(config.researchers.directions),
        "direction": direction,
        "task": task,
        "transfer": list(config.task.domains[1:]),
        "budget": budget_lines(config),
        "forum": config.forum.enabled,
    }
    path = Path(name)
    shipped = path.name == name and (FOLDER / name).is_file()
    folders = [str(FOLDER)] if shipped else [str(path.parent), str(FOLDER)]
    environment = Environment(  # the reader is a model, not a browser
        loader=FileSystemLoader(folders), undefined=StrictUndefined, autoescape=False, keep_trailing_newline=False
    )
    try:
        return environment.get_template(path.name).render(values).strip()
    except UnicodeDecodeError as error:
        why = why_not_text(path.read_bytes(), error)
        raise ConfigError(f"brain.prompt_file: {name!r} is {why}") from error
    except (TemplateError, OSError) as error:
        raise ConfigError(
            f"brain.prompt_file: {name!r} is not valid; expected a Jinja template: {type(error).__name__}: {error}"
        ) from error


def check_prompt(config: CampaignConfig) -> None:
    """Raise `ConfigError` before anything starts when the prompt could not be made."""
    if config.brain.calls_model:
        system_prompt(config, config.researcher_ids()[0], config.researchers.directions[0].text, _EXAMPLE_TASK)


def budget_lines(config: CampaignConfig) -> str:
    """What a researcher may use, one line each."""
    caps = config.budget.researcher
    lines = [
        f"- {'no limit of your own' if caps.usd is None else f'${caps.usd:g}'} for model calls, GPU time and answers "
        f"together; a GPU-hour costs ${config.pool.usd_per_gpu_hour:g}",
    ]
    lines += [] if caps.gpu_hours is None else [f"- {caps.gpu_hours:g} GPU-hours"]
    lines += [] if caps.answers is None else [f"- {caps.answers} answers of the evaluator"]
    lines.append(f"- {config.research.minutes:g} minutes, at most {config.researchers.max_turns} turns")
    lines += [] if caps.wall_hours is None else [f"- {caps.wall_hours:g} hours of your own lifetime"]
    return "\n".join(lines)
