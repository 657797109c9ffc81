"""What researchers that are language models cost apart from the model: time per turn, memory, and dollars.

    python scripts/bench/researchers.py [--team 9 --team 100] [--turns 30] [--bill-turns 200] [--lockstep]

Runs the real scheduler, forum, gateway and researchers on Ray against the fake Messages endpoint of the tests, which
answers after a time that varies by half in both directions, as a model's does (`--lockstep`: always after the same
time, so that all researchers act at once). Every turn is a thought and one edit of a file.

Printed for each team: the overhead per turn, which is its wall time without what the endpoint took by its own clock:
the edit, HTTP and the vendor's client library count as overhead. Beside it the same without the calls as the gateway
sees them, which leaves the library out, and also what a call waited for others in the gateway meanwhile. Then the
processor time per turn of all actors, idle ones included, and the memory of a researcher's process (proportional and
unique set size). At the end the bill of one researcher over many turns, with prompt caching and in a second run
without, at the shipped prices.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cluster.start import prepare

prepare()  # before torch and Ray are imported, which ask for a home and a user

import psutil

from cluster.authentication import set_authentication
from cluster.config import CampaignConfig, load_config
from cluster.journal import Event, read_events
from cluster.money import MICRO
from cluster.names import CAMPAIGN, RunPaths, actor_name
from cluster.store import open_readonly
from cluster.terminal import run_script
from tests.fake_messages import FakeMessages, Reply, replies

DELAY_S = {9: 2.0, 100: 20.0}
"""Mean time of an answer: about what a large model takes at nine; longer for a hundred, so that two cores keep up."""
SPREAD = 0.5
WORDS = "The prior and the teacher disagree where the items are long; I note it and look at the next group. "
TASK = {
    "domain": "math",
    "n_items": 1000,
    "description": "A task for the benchmark.",
    "strong_model": "none",
    "disguised": True,
}


def answer(request: dict[str, Any], turns: int) -> Reply:
    """A thought of some 150 tokens and an edit of some 250, until the turns are over."""
    turn = sum(message["role"] == "assistant" for message in request["messages"])
    if turn >= turns:
        return replies.tools(replies.tool("finish", {}, "end"))
    text = f"turn {turn}\n" + 10 * WORDS
    call = {"command": "create", "path": f"notes/{turn % 20}.md", "file_text": text}
    return replies.tools(replies.tool("str_replace_based_edit_tool", call, f"toolu_{turn}"), words=6 * WORDS)


def asked(body: dict[str, Any]) -> str:
    """`<researcher>/<turn>` of a request."""
    who = body["system"][0]["text"].split(",")[0].removeprefix("You are ")
    return f"{who}/{sum(message['role'] == 'assistant' for message in body['messages'])}"


def serve(pipe: Pipe, turns: int, delay: float, spread: float) -> None:
    """The endpoint, in a process of its own; at the end it tells how long it took for each conversation's turns."""
    took: dict[str, float] = defaultdict(float)

    def script(request: dict[str, Any], number: int) -> Reply:
        factor = random.Random(asked(request)).uniform(1 - spread, 1 + spread)
        return answer(request, turns).after(delay * factor)

    class Timed(FakeMessages):
        async def _messages(self, http: Any) -> Any:
            began = time.monotonic()
            reply = await super()._messages(http)
            took[asked(await http.json())] += time.monotonic() - began
            return reply

    with Timed(script) as endpoint:
        pipe.send(endpoint.url)
        pipe.recv()
        pipe.send(dict(took))


def configuration(team: int, turns: int, url: str, cache: bool) -> CampaignConfig:
    directions = [{"id": f"r{n}", "text": "Look where nobody looks."} for n in range(team)]
    return load_config(
        preset="quickstart",
        overrides=(
            f"researchers={{directions: {json.dumps(directions)}, max_turns: {turns + 10}}}",
            f"brain={{kind: claude, base_url: '{url}', cache: {str(cache).lower()}}}",
            "budget.campaign={usd: 1000000}",
            "budget.researcher={usd: 10000}",
            "gateway={requests_per_minute: 1000000, input_tokens_per_minute: 1000000000, "
            "output_tokens_per_minute: 1000000000, concurrent_calls: 1000}",
            "research.minutes=600",
        ),
    )


def campaign(run_dir: Path, config: CampaignConfig) -> Cost:
    """Run the researchers to their end."""
    import ray

    from actors.director.bring_up import OFFICE
    from actors.gateway.actor import GatewayActor
    from actors.researcher.actor import ResearcherActor
    from actors.scheduler.actor import SchedulerActor
    from cluster.names import NAMESPACE
    from forum_actor.actor import ForumActor

    data, name = config.model_dump(mode="json"), run_dir.name
    public = RunPaths(run_dir).public / config.task.domains[0]
    public.mkdir(parents=True)
    (public / "task.json").write_text(json.dumps(TASK))

    def start(kind: Any, label: str, *more: Any) -> Any:
        options = {"name": actor_name(name, label), "namespace": NAMESPACE, **OFFICE}
        return kind.options(**options).remote(str(run_dir), data, *more)

    offices = [start(SchedulerActor, "scheduler"), start(ForumActor, "forum"), start(GatewayActor, "gateway")]
    ray.get(offices[0].open_account.remote("root", CAMPAIGN, None, config.budget.campaign.caps()))
    team = [start(ResearcherActor, researcher, researcher) for researcher in config.researcher_ids()]
    ray.get([actor.status.remote() for actor in team])
    before = processor_seconds()
    for done in ray.get([actor.run.remote() for actor in team]):
        assert done["ended"] == "the brain is done", done
    cost = Cost([memory(process) for process in actors("ResearcherActor")], processor_seconds() - before)
    for actor in [*team, *offices]:
        ray.kill(actor)
    return cost


@dataclass(frozen=True)
class Cost:
    """PSS and USS of each researcher's process, bytes; processor seconds of all actors."""

    sizes: list[tuple[int, int]]
    seconds: float


def actors(kind: str = "") -> list[psutil.Process]:
    """Processes of Ray actors below this one, by the title that Ray gives them."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[0].startswith(f"ray::{kind}"):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, IndexError):
            continue
    return found


def processor_seconds() -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in actors()))


def memory(process: psutil.Process) -> tuple[int, int]:
    full = process.memory_full_info()
    return full.pss, full.uss


def overheads(run_dir: Path, took: dict[str, float]) -> list[float]:
    """Milliseconds of every turn but the first and the last of a researcher, without what its call took (seconds)."""
    found = []
    for folder in sorted(RunPaths(run_dir).researchers.iterdir()):
        db = open_readonly(folder / "researcher.db")
        ends = [row["finished_us"] for row in db.execute("SELECT finished_us FROM turns ORDER BY turn")]
        db.close()
        for turn in range(1, len(ends) - 1):
            found.append((ends[turn] - ends[turn - 1]) / 1000 - took[f"{folder.name}/{turn}"] * 1000)
    return found


def calls(run_dir: Path) -> list[Event]:
    db = open_readonly(RunPaths(run_dir).gateway_db)
    try:
        return [event for event in read_events(db) if event.kind == "call_answered"]
    finally:
        db.close()


def call_seconds(run_dir: Path) -> dict[str, float]:
    """How long the gateway waited for the answer of each turn, the client library's work included."""
    found: dict[str, float] = defaultdict(float)
    for event in calls(run_dir):
        found["/".join(event.payload["key"].split("/")[:2])] += event.payload["seconds"]
    return found


def measured(
    team: int, turns: int, delay: float, spread: float = 0.0, cache: bool = True
) -> tuple[Path, dict[str, float], Cost]:
    """One run; its directory, the endpoint's times, and what it cost here."""
    here, there = multiprocessing.Pipe()
    endpoint = multiprocessing.get_context("spawn").Process(
        target=serve, args=(there, turns, delay, spread), daemon=True
    )
    endpoint.start()
    url = here.recv()
    run_dir = Path(tempfile.mkdtemp(prefix="bench-researchers-")) / f"team-{team}"
    cost = campaign(run_dir, configuration(team, turns, url, cache))
    here.send("end")
    took = here.recv()
    endpoint.join(10)
    return run_dir, took, cost


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--team", type=int, action="append", help="researchers; may be given again (default: 9, 100)")
    parser.add_argument("--turns", type=int, default=30, help="turns of each researcher (default: 30)")
    parser.add_argument("--bill-turns", type=int, default=200, help="turns of the bill (default: 200; 0: no bill)")
    parser.add_argument("--lockstep", action="store_true", help="answer always after the same time")
    args = parser.parse_args(argv)
    set_authentication()
    os.environ["RAY_ADDRESS"] = "local"
    from cluster.connection import connect

    connect(dashboard=False)
    for team in args.team or (9, 100):
        delay = DELAY_S.get(team, team / 5)
        spread = 0.0 if args.lockstep else SPREAD
        run_dir, took, cost = measured(team, args.turns, delay, spread)
        times = f"{delay:g} s" if args.lockstep else f"{delay * (1 - spread):g} to {delay * (1 + spread):g} s"
        print(f"{team} researchers, {args.turns} turns, answers after {times}: overhead per turn")
        for what, seconds in (("beside the endpoint", took), ("beside the gateway's calls", call_seconds(run_dir))):
            values = overheads(run_dir, seconds)
            print(
                f"  {what}: median {statistics.median(values):.1f} ms, 95 % below "
                f"{statistics.quantiles(values, n=20)[-1]:.1f} ms ({len(values)} turns)"
            )
        print(f"  processor time per turn, all actors: {cost.seconds / (team * (args.turns + 1)) * 1000:.1f} ms")
        sizes = cost.sizes
        print(
            f"  memory of a researcher: median PSS {statistics.median(s[0] for s in sizes) / 2**20:.0f} MiB, "
            f"USS {statistics.median(s[1] for s in sizes) / 2**20:.0f} MiB, most PSS "
            f"{max(s[0] for s in sizes) / 2**20:.0f} MiB ({len(sizes)} processes)",
            flush=True,
        )
    if args.bill_turns:
        bill(args.bill_turns)
    return 0


def bill(turns: int) -> None:
    """The dollars of one researcher with and without prompt caching."""
    dollars = {}
    for cache in (True, False):
        events = calls(measured(1, turns, 0.0, cache=cache)[0])
        dollars[cache] = sum(event.payload["usd"] for event in events) / MICRO
        tokens: dict[str, int] = defaultdict(int)
        for event in events:
            for kind, count in event.payload["tokens"].items():
                tokens[kind] += count
        print(f"{len(events)} calls, cache {'on' if cache else 'off'}: ${dollars[cache]:.4f}, tokens {dict(tokens)}")
    print(f"with caching the bill is {dollars[True] / dollars[False]:.3f} of that without", flush=True)


if __name__ == "__main__":
    sys.exit(run_script(main))
