"""What the driver refuses before a campaign starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.config import ConfigError, load_config
from scripts.run_campaign import check_key_is_out_of_reach, main

ENDPOINT = "brain.base_url=http://127.0.0.1:1"


def test_a_key_and_code_without_a_sandbox_do_not_go_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("sk-secret")
    key_file.chmod(0o600)
    arguments = ["--preset", "published", "--set", f"brain.key_file={key_file}", "--runs-dir", str(tmp_path / "runs")]
    assert main([*arguments, "--allow-unsandboxed"]) == 2
    told = capsys.readouterr().err
    assert "allow_unsandboxed: true is not valid with an API key" in told
    assert "sk-secret" not in told
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("overrides", "key", "refused"),
    [
        (("brain.kind=claude",), "k", True),
        (("brain.kind=local", ENDPOINT), "k", True),
        (("brain.kind=local", ENDPOINT), None, False),
        (("brain.kind=claude", ENDPOINT), None, False),
        (("brain.kind=explorer",), "k", False),
    ],
)
def test_only_a_brain_that_holds_a_key_needs_the_sandbox(
    overrides: tuple[str, ...], key: str | None, refused: bool
) -> None:
    check_key_is_out_of_reach(load_config("quickstart", overrides=overrides), key, None)
    config = load_config("quickstart", overrides=(*overrides, "allow_unsandboxed=true"))
    if refused:
        with pytest.raises(ConfigError, match="base_url of an endpoint that needs none"):
            check_key_is_out_of_reach(config, key, None)
    else:
        check_key_is_out_of_reach(config, key, None)


@pytest.mark.parametrize("control", ["published-identical", "published-solo", "published-no-forum", "structured"])
def test_the_published_controls_have_the_published_budget(control: str) -> None:
    whole, config = load_config("published"), load_config(control)
    assert (config.budget.campaign, config.brain.kind, config.brain.model, config.research.minutes) == (
        whole.budget.campaign,
        whole.brain.kind,
        whole.brain.model,
        whole.research.minutes,
    )
    for dimension in ("usd", "gpu_hours", "wall_hours", "answers"):
        team = [len(c.researchers.directions) * getattr(c.budget.researcher, dimension) for c in (whole, config)]
        assert team[0] == team[1], dimension
