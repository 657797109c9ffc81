"""A campaign whose brains are a model that it serves itself: the real vLLM, a random model, a pool of one slot.

The model says nothing that makes sense. Researchers are told so, rest, and end; their server is started by the first
call, shared, stopped while nobody uses it, started again for last words, and gone when SEAL needs the slot.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from actors.researcher.stall_detection import NO_CALL, PAUSED_TITLE
from actors.researcher.stop_conditions import END_STOPPED, END_TIME
from actors.researcher.transcript import read_turns
from cluster.money import gpu_cost, usd_from_decimal
from cluster.names import SERVING_ACCOUNT, RunPaths
from cluster.sandbox import available
from cluster.store import open_readonly
from tests.integration.campaigns import Campaign, ray_home, small_config
from tests.tiny_qwen import make_tiny_qwen
from tests.vllm_environment import needs_vllm, vllm_python

pytestmark = [
    needs_vllm,
    pytest.mark.skipif(not available().ok, reason="no usable bubblewrap here"),
]
ENDS_S = 900
TEAM = ("01-elicitation", "02-reweighting")
CONTEXT = 32_768
USD_PER_GPU_HOUR = 2.0


@pytest.fixture
def home() -> Iterator[Path]:
    with ray_home() as path:
        yield path


def served_config(directory: Path) -> Path:
    """The small campaign with a served model. Research outlasts the start of a server, a few turns and a short rest."""
    config = yaml.safe_load(small_config(directory).read_text())
    config["brain"] = {
        "kind": "local", "model": "tiny", "max_tokens": 64, "thinking_tokens": None, "compact_at": 20_000
    }  # fmt: skip
    config["serve"] = {
        "model": str(make_tiny_qwen(directory / "model", context=CONTEXT)),
        "python": str(vllm_python()),
        "arguments": [
            "--enable-auto-tool-choice", "--tool-call-parser", "hermes",
            "--dtype", "float32", "--enforce-eager", "--max-num-seqs", "8",
        ],
        "memory_gb": 6,
        "idle_minutes": 0.2,
        "lease_minutes": 10,
    }  # fmt: skip
    config["pool"] = {"logical_gpus": 1, "usd_per_gpu_hour": USD_PER_GPU_HOUR}
    config["research"] = {"minutes": 2.5}
    path = directory / "served.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.ray
@pytest.mark.timeout(ENDS_S + 60)
def test_researchers_share_a_server_that_the_campaign_starts_pays_and_stops(tmp_path: Path, home: Path) -> None:
    with Campaign(tmp_path / "runs", "served", home, "--config", str(served_config(tmp_path))) as campaign:
        assert campaign.wait(ENDS_S) == 0, campaign.output()
        campaign.assert_sound()
        _assert_garbage_was_survived(campaign)
        servers = _assert_servers_were_paid_by_the_hour(campaign)
        answered = [e for e in campaign.events("gateway", "call_answered") if e.at_us < servers[0]["ended_us"]]
        assert {event.payload["researcher"] for event in answered} == set(TEAM), "one server, both researchers"
        _assert_the_slot_was_free_for_seal(campaign, servers[-1])


def _assert_garbage_was_survived(campaign: Campaign) -> None:
    ended = {e.payload["researcher"]: e.payload["ended"] for e in campaign.events("director", "researcher_ended")}
    assert set(ended) == set(TEAM)
    assert set(ended.values()) <= {END_STOPPED, END_TIME}
    posts = [event.payload for event in campaign.events("forum", "post")]
    for name in TEAM:
        db = open_readonly(RunPaths(campaign.run_dir).researcher_db(name))
        try:
            turns = list(read_turns(db))
        finally:
            db.close()
        assert NO_CALL in turns[1].seen.note
        assert len(turns) == 5, "four empty turns, a rest until the end, last words"
        assert [p["title"] for p in posts if p["author"] == name].count(PAUSED_TITLE) == 1


def _assert_servers_were_paid_by_the_hour(campaign: Campaign) -> list[dict[str, Any]]:
    """One that fell idle while all rested, one for their last words; the campaign paid both and no token."""
    servers = [e.payload for e in campaign.events("scheduler", "lease_ended") if e.payload["kind"] == "serve"]
    assert [(s["key"], s["status"]) for s in servers] == [("serve/1", "done"), ("serve/2", "cancelled")]
    for server in servers:
        assert server["account"] == SERVING_ACCOUNT
        assert server["gpu_ms"] == (server["ended_us"] - server["started_us"]) // 1000
        assert server["usd"] == gpu_cost(server["gpu_ms"], usd_from_decimal(USD_PER_GPU_HOUR))
    assert all(event.payload["usd"] == 0 for event in campaign.events("gateway", "call_answered"))
    settled = [event.payload for event in campaign.events("scheduler", "settled")]
    paid = [p["amounts"]["usd"] for p in settled if p["account"] == SERVING_ACCOUNT]
    assert paid == [server["usd"] for server in servers]
    spent = {p["account"] for p in settled if p["amounts"]["usd"] and "/researcher/" in p["account"]}
    assert spent == set(), "what a server costs is the campaign's"
    return servers


def _assert_the_slot_was_free_for_seal(campaign: Campaign, last: dict[str, Any]) -> None:
    (seal,) = (e.at_us for e in campaign.events("director", "phase") if e.payload["phase"] == "seal")
    others = [
        event.payload
        for event in campaign.events("scheduler", "lease_ended")
        if event.payload["kind"] != "serve" and event.payload["ended_us"] > seal
    ]
    assert others, "SEAL scores the baselines"
    assert all(lease["started_us"] >= last["ended_us"] for lease in others)
    assert last["ended_us"] - seal < 20e6
