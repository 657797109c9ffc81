"""After SEAL the secret is public: what was measured can be checked against it, and measured again."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from actors.evaluator.secret import Secret, SecretError
from actors.evaluator.seeds import read_secret, seed_commitment
from actors.observer.run_data import load_run
from cluster.config import dump_config
from cluster.errors import AarError, RefusedError
from cluster.names import RunPaths
from scripts.replay_record import BOUND, FIGURES, differences, find, prepare_run
from tests.unit.actors.evaluator_world import World


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A campaign that has ended, with records on all tiers."""
    world = World(tmp_path_factory.mktemp("sealed"))
    world.paths.config.write_text(dump_config(world.config))
    for tier in ("dev", "board"):
        snapshot = world.method(0.86, "FAIL = (1,)")
        asyncio.run(world.evaluator.submit(f"k/{tier}", "01-a", snapshot, "mine", tier))
    assert not world.paths.revealed.exists()
    asyncio.run(world.evaluator.seal())
    return world


def by_hand(world: World) -> dict[str, dict[str, Any]]:
    return {r["tier"]: r for r in world.evaluator.records() if r["researcher"] == "01-a"}


def test_the_secret_is_revealed_once_the_finalists_are_sealed_and_binds_every_record(sealed: World) -> None:
    revealed = json.loads(sealed.paths.revealed.read_text())
    secret = Secret(bytes.fromhex(revealed["secret"]))
    (started,), (told,) = sealed.kinds("evaluator_started"), sealed.kinds("secret_revealed")
    assert secret.commitment() == started["secret_commitment"] == told["secret_commitment"]
    records = sealed.evaluator.records()
    assert {record["tier"] for record in records} == {"dev", "board", "seal"}
    assert all(record["seed_commitment"] == seed_commitment(secret, record) for record in records)


def test_nothing_is_scored_with_a_secret_that_is_public(sealed: World) -> None:
    with pytest.raises(RefusedError) as caught:
        asyncio.run(sealed.evaluator.score("k", sealed.method(0.9), "late", "seal", "chat"))
    assert caught.value.reason == "revealed"


@pytest.mark.parametrize("tier", ["dev", "board", "seal"])
def test_a_record_that_is_run_again_gives_the_same_numbers(sealed: World, tmp_path: Path, tier: str) -> None:
    run = load_run(sealed.paths.root)
    record = find(run, by_hand(sealed)[tier]["record_id"])
    again = World(tmp_path, secret=bytes.fromhex(read_secret(run.paths).revealed()))
    again.objects.put_tree(sealed.objects.get_tree(record["snapshot"]))
    found = asyncio.run(again.evaluator.replay(record["snapshot"], record["method"], tier, record["domain"]))
    assert differences(record, found) == []
    assert record["failed_seeds"] == [1]
    other = World(tmp_path / "other", secret=bytes(32))
    other.objects.put_tree(sealed.objects.get_tree(record["snapshot"]))
    strange = asyncio.run(other.evaluator.replay(record["snapshot"], record["method"], tier, record["domain"]))
    assert {"data_version", "seed_commitment", "per_seed"} <= set(differences(record, strange))
    assert not again.journal.events(kind="record"), "a replay is no record"


def test_a_replay_starts_from_configuration_secret_and_code_alone(sealed: World, tmp_path: Path) -> None:
    run = load_run(sealed.paths.root)
    prepare_run(run, tmp_path / "again")
    there = sorted(path.name for path in (tmp_path / "again").iterdir())
    assert there == ["config.yaml", "judge", "objects"]
    assert (tmp_path / "again" / "judge" / "secret.bin").stat().st_mode & 0o777 == 0o600


def test_what_is_no_record_of_a_method_is_refused_in_one_line(sealed: World, tmp_path: Path) -> None:
    run = load_run(sealed.paths.root)
    weak = next(r for r in sealed.evaluator.records() if r["method"] == "weak")
    for record_id, said in (("rec-999999", "has no record"), (weak["record_id"], "run again with any method's")):
        with pytest.raises(AarError, match=said):
            find(run, record_id)
    with pytest.raises(SecretError, match="has not revealed its secret"):
        read_secret(RunPaths(tmp_path))
    assert set(BOUND).isdisjoint(FIGURES)
