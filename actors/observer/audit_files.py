"""Files against the journals that name them: configuration, keys, public files, case files, objects, the secret.

Promise: reads every file once, follows no link; a file that nothing names is found where a folder is named as a whole
(`public/`, `cases/`), elsewhere by the closing alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from actors.director.begun import config_changes
from actors.observer.finding import Finding
from actors.observer.run_data import RunData
from cluster.inventory import file_digests
from cluster.objects import sha256_hex

EVALUATOR, DIRECTOR = "evaluator", "director"
SETTLED_PHASES = ("report", "done")
"""Phases in which everything that SEAL leaves is on disk."""


def begun(run: RunData) -> dict[str, Any]:
    """What the first event of the campaign pins; nothing before there is one."""
    events = run.events(DIRECTOR, "campaign_started")
    return events[0].payload if events else {}


def audit_config(run: RunData) -> tuple[int, list[Finding]]:
    """`config.yaml` is the configuration that the first event tells, field by field and byte by byte."""
    told = begun(run)
    if not told:
        return 0, []
    seq = run.events(DIRECTOR, "campaign_started")[0].seq
    if run.config is None:
        return 1, [Finding(DIRECTOR, seq, f"{run.paths.config.name} is missing or cannot be read")]
    findings = [Finding(DIRECTOR, seq, f"{run.paths.config.name}: {c}") for c in config_changes(told, run.config)]
    digest = told.get("config_sha256")
    if digest is not None and sha256_hex(run.paths.config.read_bytes()) != digest:
        findings.append(Finding(DIRECTOR, seq, f"{run.paths.config.name} is not the file that the campaign began with"))
    return 1, findings


def audit_keys(run: RunData, expected: str | None) -> tuple[int, list[Finding]]:
    """One public key everywhere: in the first event, in the evaluator's, in `evaluator.pub`, and as it was published.

    `expected` is the key that somebody kept from the start of the campaign.
    """
    told = [(DIRECTOR, event) for event in run.events(DIRECTOR, "campaign_started")]
    told += [(EVALUATOR, event) for event in run.events(EVALUATOR, "evaluator_started")]
    keys = [
        (store, event.seq, str(event.payload["public_key"]).strip())
        for store, event in told
        if "public_key" in event.payload
    ]
    file = None if run.public_key is None else run.public_key.decode("ascii", "replace").strip()
    findings = []
    if file is None and keys:
        findings.append(Finding(EVALUATOR, None, f"{run.paths.public_key.name} is missing"))
    if file is not None and run.public_key != f"{file}\n".encode("ascii", "replace"):
        findings.append(Finding(EVALUATOR, None, f"{run.paths.public_key.name} holds more than the key"))
    for store, seq, key in keys:
        if file is not None and key != file:
            reason = f"{run.paths.public_key.name} is not the key that this event announced"
            findings.append(Finding(store, seq, reason))
        if expected is not None and key != expected:
            findings.append(Finding(store, seq, f"announces the key {key}, published was {expected}"))
    if expected is not None and not keys and file != expected:
        findings.append(Finding(EVALUATOR, None, f"its key is {file}, published was {expected}"))
    return len(keys) + (file is not None), findings


def audit_revealed(run: RunData) -> tuple[int, list[Finding]]:
    """The secret is revealed exactly when the journal says so, whole, and with the commitment that goes with it."""
    events, path = run.events(EVALUATOR, "secret_revealed"), run.paths.revealed
    if not path.is_file():
        entered = {str(event.payload.get("phase")) for event in run.events(DIRECTOR, "phase")}
        if events and entered.intersection(SETTLED_PHASES):
            return 1, [Finding(EVALUATOR, events[0].seq, f"{path.name} is missing, the secret was revealed")]
        return 0, []
    if not events:
        return 1, [Finding(EVALUATOR, None, f"{path.name} is there, no event reveals the secret")]
    told = events[0].payload.get("secret_commitment")
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        if set(body) == {"secret", "commitment"} and body["commitment"] == told:
            return 1, []
    except (OSError, ValueError, TypeError):
        pass
    return 1, [Finding(EVALUATOR, events[0].seq, f"{path.name} is not what was revealed")]


def audit_public(run: RunData) -> tuple[int, list[Finding]]:
    """`public/` holds the files that were hashed when the campaign was prepared."""
    for event in run.events(EVALUATOR, "work_done"):
        if event.payload.get("work") == "prepared" and isinstance(event.payload.get("public"), dict):
            told = event.payload["public"]
            return len(told), list(_folder(run.paths.public.name, told, file_digests(run.paths.public), event.seq))
    return 0, []


def audit_cases(run: RunData) -> tuple[int, list[Finding]]:
    """Every case file is as it was written, and no other one is there."""
    told: dict[str, tuple[int, dict[str, str]]] = {}
    for event in run.events(EVALUATOR, "case_opened"):
        files = event.payload.get("files")
        told[str(event.payload.get("folder"))] = (event.seq, files if isinstance(files, dict) else {})
    findings, looked = list[Finding](), 0
    for folder, (seq, files) in told.items():
        looked += max(1, len(files))
        found = file_digests(run.paths.cases / folder)
        if not (run.paths.cases / folder).is_dir():
            findings.append(Finding(EVALUATOR, seq, f"the case file {run.paths.cases.name}/{folder} is missing"))
        elif files:
            findings += _folder(f"{run.paths.cases.name}/{folder}", files, found, seq)
    if run.paths.cases.is_dir():
        for path in sorted(run.paths.cases.iterdir()):
            if path.name not in told:
                findings.append(Finding(EVALUATOR, None, f"{run.paths.cases.name}/{path.name} is the file of no case"))
    return looked, findings


def _folder(name: str, told: dict[str, str], found: dict[str, str], seq: int) -> Iterator[Finding]:
    for path in sorted(told.keys() | found.keys()):
        if told.get(path) != found.get(path):
            what = "is missing" if path not in found else "was added" if path not in told else "was changed"
            yield Finding(EVALUATOR, seq, f"{name}/{path} {what}")


def audit_objects(run: RunData) -> tuple[int, list[Finding]]:
    """Every object is what it is named after, and those that journals name are there."""
    found = file_digests(run.paths.objects) if run.paths.objects.is_dir() else {}
    findings = []
    for path, what in found.items():
        name = path.rpartition("/")[2]
        folder_of_two = what == "directory" and len(path) == 2
        if not folder_of_two and (what.rpartition(" ")[2] != name or path != f"{name[:2]}/{name}"):
            findings.append(Finding("objects", None, f"objects/{path} is no object of that name"))
    for store, seq, sha in _named(run):
        if f"{sha[:2]}/{sha}" not in found:
            findings.append(Finding(store, seq, f"object {sha} is missing"))
    return len(found), findings


def _named(run: RunData) -> Iterator[tuple[str, int, str]]:
    """Objects that events name, each once: store, event, sha256."""
    seen = set[str]()
    for event in run.events("forum", "push"):
        for sha in (event.payload.get("snapshot"), *(entry[1] for entry in event.payload.get("files") or ())):
            if sha and sha not in seen:
                seen.add(str(sha))
                yield "forum", event.seq, str(sha)
    for event in run.events(EVALUATOR, "record", "submission"):
        sha = event.payload.get("snapshot")
        if sha and sha not in seen:
            seen.add(str(sha))
            yield EVALUATOR, event.seq, str(sha)
