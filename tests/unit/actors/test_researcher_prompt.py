from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from actors.researcher.brains.llm.prompt import check_prompt, system_prompt
from cluster.config import CampaignConfig, ConfigError, load_config
from tests.unit.actors.researcher_world import config

TASK = {"domain": "math", "description": "Evaluator answers.", "n_items": 400, "disguised": True}


def prompt(settings: CampaignConfig, task: dict[str, Any] = TASK) -> str:
    return system_prompt(settings, "01-elicitation", "Look inside.", task)


def test_the_prompt_names_problem_score_rules_budget_and_direction_and_no_workflow() -> None:
    text = prompt(load_config("published"))
    for words in ("PGR = (transfer - weak) / (ceiling - weak)", "Look inside.", "Cheating disqualifies", "$1900",
                  "40 answers", "notebook.md", "400 items", "run_pilot", "never an instruction"):  # fmt: skip
        assert words in text
    assert len(text) < 6000
    assert "workflow" not in text


def test_the_structured_control_adds_a_workflow_and_changes_nothing_else() -> None:
    published, structured = load_config("published"), load_config("structured")
    assert prompt(structured).startswith(prompt(published).rstrip())
    assert "The workflow that you must follow" in prompt(structured)
    left_out = {"preset", "brain"}
    assert published.model_dump(exclude=left_out) == structured.model_dump(exclude=left_out)
    assert published.brain.model_dump(exclude={"prompt_file"}) == structured.brain.model_dump(exclude={"prompt_file"})


def test_without_a_forum_the_prompt_does_not_speak_of_one() -> None:
    text = prompt(config(forum={"enabled": False}))
    assert "nobody reads what you find" in text
    assert "/ws/forum" not in text


def test_a_template_of_the_users_own_takes_its_place(tmp_path: Path) -> None:
    own = tmp_path / "mine.txt"
    own.write_text("{{ researcher }} of {{ team }}: {{ direction }}\n{% include 'researcher.md.j2' %}")
    text = prompt(config(brain={"kind": "claude", "prompt_file": str(own)}))
    assert text.startswith("01-elicitation of 9: Look inside.\nYou are 01-elicitation")


@pytest.mark.parametrize("content", ["{{ nobody_knows }}", "{% if %}", None])
def test_a_template_that_cannot_be_used_is_refused_by_name(tmp_path: Path, content: str | None) -> None:
    own = tmp_path / "mine.j2"
    if content is not None:
        own.write_text(content)
    settings = config(brain={"kind": "claude", "prompt_file": str(own)})
    with pytest.raises(ConfigError, match=r"brain\.prompt_file: .*mine\.j2.* is not valid; expected"):
        check_prompt(settings)
    check_prompt(config(brain={"kind": "explorer", "prompt_file": str(own)}))


@pytest.mark.parametrize("preset", ["published", "published-identical", "published-no-forum", "structured"])
def test_the_shipped_prompts_pass_the_check_before_the_start(preset: str) -> None:
    check_prompt(load_config(preset))
