"""The configuration of a campaign: one pydantic tree, every field with its unit and meaning.

Imports neither ray nor torch, so that a bad file is refused in milliseconds. Unknown fields are errors. Durations
are in the unit that the field's name says; money is in dollars here and becomes integer micro-dollars in the ledger.
"""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from cluster.config.prices import SHIPPED_PRICES, Price
from cluster.money import MICRO, MS_PER_HOUR, Caps
from cluster.training import Training

Positive = Annotated[float, Field(gt=0, le=1e9)]
NotNegative = Annotated[float, Field(ge=0, le=1e9)]
Cap = Annotated[float, Field(ge=0, le=1e9)]
"""At most a thousand million dollars or hours, so that every sum fits the ledger's 64 bits."""
Count = Annotated[int, Field(ge=1, le=10**12)]
Seed = Annotated[int, Field(ge=0, lt=1 << 63)]
Share = Annotated[float, Field(ge=0, lt=1)]
GIB = 1 << 30


def _absolute(value: str) -> str:
    try:
        return str(Path(value).expanduser().absolute())
    except RuntimeError as error:
        raise ValueError("a path; nobody here has that home directory") from error


def _found_here(value: str) -> str:
    place = _absolute(value)
    return place if Path(place).exists() else value


Place = Annotated[str, Field(min_length=1), AfterValidator(_absolute)]
"""A file or folder; absolute, so that every process of the campaign finds it. Links stay as they are."""
PlaceOrHub = Annotated[str, Field(min_length=1), AfterValidator(_found_here)]
"""What lies here is a `Place`; any other name is the hub's and stays as it is."""

DOMAINS = ("chat", "math", "code")


class Limit:
    """Marks an optional field without which nothing is limited: who wants that writes `none`; no value is a mistake."""


LIMIT = Limit()
Some = Field(strict=False)
"""For tuples, which a file writes as lists; what is in them stays strict."""


class Strict(BaseModel):
    """Base of all sections: unknown fields and values of another type (`true` for a number, text for a number, 1.5 for
    a count) are refused, values cannot change after validation.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


def _whole(value: float | None, unit: int) -> int | None:
    return None if value is None else int(Decimal(str(value)) * unit)


class Budget(Strict):
    """Caps of one account. A dimension that is left out, or `none`, is not capped."""

    usd: Annotated[Cap | None, LIMIT] = Field(None, description="dollars")
    gpu_hours: Annotated[Cap | None, LIMIT] = Field(
        None, description="GPU-hours (on a CPU machine: hours of a logical GPU)"
    )
    wall_hours: Annotated[Cap | None, LIMIT] = Field(None, description="hours of the researcher's own lifetime")
    answers: Annotated[Annotated[int, Field(ge=0, le=10**9)] | None, LIMIT] = Field(
        None, description="answers of the evaluator (DEV and BOARD)"
    )

    def caps(self) -> Caps:
        """The caps in the ledger's integers, rounded down."""
        return Caps(
            usd=_whole(self.usd, MICRO),
            gpu_ms=_whole(self.gpu_hours, MS_PER_HOUR),
            wall_ms=_whole(self.wall_hours, MS_PER_HOUR),
            answers=self.answers,
        )


class Budgets(Strict):
    """Nested caps: everything under the campaign, each researcher under its own."""

    campaign: Budget
    researcher: Budget


class TaskFiles(Strict):
    """A task from files, with labels, and its two models. Labels are read by the evaluator alone."""

    path: PlaceOrHub = Field(
        description="a folder with train_label.jsonl, train_unlabel.jsonl and test.jsonl, one .jsonl file, a saved "
        "task, or hub:OWNER/NAME[:CONFIG] (a Hugging Face data set)",
    )
    weak: PlaceOrHub = Field(description="the teachers' model: a folder or a hub id")
    strong: PlaceOrHub = Field(description="the students' model: a folder or a hub id")
    weak_chat: bool | None = Field(
        None, description="ask the weak model through its chat template; none: the published models as published"
    )
    strong_chat: bool | None = Field(None, description="the same for the strong model")
    max_length: Count | None = Field(
        None, description="tokens at which a text is cut; none: 8192 for the published models, else what a model allows"
    )
    protocol: Training = Field(Training(), description="of ceilings, baselines and students")
    teacher: Training | None = Field(None, description="of teachers; none: the same as `protocol`")
    description: str = Field("", description="what the task is, for the researchers")


def _domain(name: str, info: ValidationInfo) -> str:
    """A generated domain, or one that `files` describes."""
    files = info.data.get("files")  # absent when it is at fault itself
    if name not in DOMAINS and files is not None and name not in files:
        raise ValueError("'chat', 'math' or 'code', or a name of task.files")
    return name


class Task(Strict):
    """The weak-to-strong problem. The first domain is the one researched; the others test transfer."""

    files: dict[str, TaskFiles] = Field(
        default_factory=dict, description="tasks from files by name; a name hides the generated domain of that name"
    )
    domains: Annotated[tuple[Annotated[str, AfterValidator(_domain)], ...], Some] = Field(("chat",), min_length=1)
    size: Literal["quick", "standard"] = Field("quick", description="size of models and pools of generated domains")
    world_seed: Seed = Field(0, description="seed of the generated world (what words mean), public")

    @field_validator("files")
    @classmethod
    def _names(cls, value: dict[str, TaskFiles]) -> dict[str, TaskFiles]:
        bad = [name for name in value if name == "leases" or not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", name)]
        if bad:
            raise ValueError(
                f"names of 1 to 40 lower-case letters, digits and dashes, and not leases; found {bad[0]!r}"
            )
        return value

    @field_validator("domains")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("each domain once")
        return value

    def from_files(self) -> dict[str, TaskFiles]:
        """The domains of this campaign that come from files."""
        return {name: self.files[name] for name in self.domains if name in self.files}


class Direction(Strict):
    """The short, vague starting point of one researcher."""

    id: str = Field(description="lower-case letters, digits and dashes")
    text: str = Field(description="one or two sentences")

    @field_validator("id")
    @classmethod
    def _id(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", value):
            raise ValueError("1 to 40 lower-case letters, digits and dashes")
        return value

    @field_validator("text")
    @classmethod
    def _text(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("a direction needs a text")
        return value


class Brain(Strict):
    """What decides a researcher's next action."""

    kind: Literal["explorer", "claude", "local", "replay"] = Field(
        "explorer", description="`replay`: the model's answers are those of an earlier campaign"
    )
    pilots_per_submission: Count = Field(2, description="explorer: pilots before it considers a submission")
    model: str = Field("claude-opus-4-6", min_length=1, description="name of the model, as the endpoint knows it")
    base_url: str | None = Field(None, description="endpoint of the Messages API; none: the vendor's own")
    key_file: Place | None = Field(
        None, description="file of mode 0600 with the API key; none: what ANTHROPIC_API_KEY was when the driver started"
    )
    replay_of: Place | None = Field(None, description="replay: directory of the campaign whose answers are given again")
    recorded_kind: Literal["claude", "local"] | None = Field(
        None, description="replay: kind of the campaign whose answers are given again; told by its configuration"
    )
    max_tokens: Count = Field(16_000, description="most output tokens of one call, thinking included")
    thinking_tokens: Annotated[int, Field(ge=1024, le=10**12)] | Literal["adaptive"] | None = Field(
        "adaptive", description="most tokens of thinking in one call; `adaptive`: the model decides; none: no thinking"
    )
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = Field(
        None, description="how much effort the model puts into an answer; none: the endpoint's default"
    )
    cache: bool = Field(True, description="prompt caching")
    compact_at: Annotated[int, Field(ge=1000, le=10**12)] = Field(
        120_000, description="input tokens at which older history is compacted"
    )
    prompt_file: Place | None = Field(None, description="template of the system prompt; none: the shipped one")

    @field_validator("base_url")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value):
            raise ValueError("an address such as http://127.0.0.1:8000")
        return value

    @model_validator(mode="after")
    def _room_to_answer(self) -> Brain:
        if isinstance(self.thinking_tokens, int) and self.thinking_tokens >= self.max_tokens:
            raise ValueError("thinking_tokens below max_tokens, which includes them")
        return self

    @property
    def calls_model(self) -> bool:
        """Whether it is a language model, asked through the gateway."""
        return self.kind != "explorer"

    @property
    def plain(self) -> bool:
        """Whether the endpoint knows the basics of the API alone: no caching, thinking, compaction."""
        return (self.recorded_kind if self.kind == "replay" else self.kind) == "local"

    @property
    def caches(self) -> bool:
        """Whether requests ask for prompt caching."""
        return self.cache and not self.plain

    @property
    def served(self) -> bool:
        """Whether the campaign itself starts the server of its model."""
        return self.kind == "local" and self.base_url is None


class Gateway(Strict):
    """Calls to models: limits of the whole organisation, patience, prices."""

    requests_per_minute: Count = Field(1000, description="calls that may start in a minute, all researchers together")
    input_tokens_per_minute: Count = Field(450_000, description="input tokens in a minute; cache reads do not count")
    output_tokens_per_minute: Count = Field(90_000, description="output tokens in a minute")
    concurrent_calls: Count = Field(32, description="calls that are under way at once")
    attempts: Count = Field(8, description="times a call is tried before it counts as unavailable")
    longest_wait_seconds: Positive = Field(120, description="longest pause between two attempts")
    call_seconds: Positive = Field(900, description="longest duration of one attempt")
    prices: dict[str, Price] = Field(
        default_factory=dict,
        validate_default=True,
        description="dollars per million tokens by model; what is given here is added to the shipped table",
    )

    @field_validator("prices", mode="before")
    @classmethod
    def _with_shipped(cls, value: Any) -> Any:
        return {**SHIPPED_PRICES, **value} if isinstance(value, dict) else value


class Serve(Strict):
    """A vLLM server on a slot of the pool, for brains of kind `local`; the first call starts it."""

    model: Place | None = Field(None, description="folder of the model's weights, tokenizer; none: nothing is served")
    python: Place | None = Field(None, description="interpreter of an environment with vLLM; none: the project's own")
    arguments: Annotated[tuple[str, ...], Some] = Field(
        ("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
        description="further arguments of vLLM's server; the parser must suit the model's way to write tool calls",
    )
    gpus: Annotated[float, Field(ge=0.05, le=1)] = Field(1.0, description="fraction of a GPU")
    memory_gb: Positive = Field(32.0, description="memory limit of the server (not of the GPU), GiB")
    start_seconds: Positive = Field(900, description="time in which the server must be ready")
    idle_minutes: Positive = Field(15, description="the server stops when nobody used it for this long")
    lease_minutes: Annotated[float, Field(gt=0, le=43_200)] = Field(
        240, description="longest life of one server, all of which is reserved at its start"
    )
    address: Literal["loopback", "node"] = Field(
        "loopback", description="`loopback`: only callers on the server's own node reach it; `node`: the cluster does"
    )

    @property
    def memory_bytes(self) -> int:
        """`memory_gb` in bytes."""
        return int(self.memory_gb * GIB)


class Researchers(Strict):
    """The team."""

    directions: Annotated[tuple[Direction, ...], Some] = Field(min_length=1)
    identical: bool = Field(
        False, description="control: every researcher works from the first direction and seed stream"
    )
    max_turns: Count = Field(200, description="turns after which a researcher ends")

    @model_validator(mode="after")
    def _distinct(self) -> Researchers:
        ids = [direction.id for direction in self.directions]
        if len(set(ids)) != len(ids):
            raise ValueError("direction ids must be distinct")
        return self


class Diversity(Strict):
    """Whether a team's ideas are many. Everybody hears when they collapse; what follows is up to the researchers."""

    reseed: bool = Field(
        False,
        description="when ideas collapse, researchers of the largest family, but its first, get a new direction that "
        "nobody has had, once each",
    )
    spare: Annotated[tuple[Direction, ...], Some] = Field((), description="directions that nobody starts from")
    model: str | None = Field(
        None,
        min_length=1,
        description="a cheap model that names the idea families of code; none: a fixed rule does",
    )
    usd: Cap = Field(1.0, description="most that `model` may cost in a campaign, dollars")


class Pool(Strict):
    """Slots and leases."""

    logical_gpus: Count | None = Field(None, description="slots on a machine without GPUs; none: real GPUs, else cores")
    threads_per_slot: Count = Field(1, description="CPU threads of a whole logical GPU")
    usd_per_gpu_hour: NotNegative = Field(2.0, description="price of one whole GPU for an hour")
    memory_gb: Positive = Field(3.0, description="memory limit of one lease, GiB")
    file_gb: Positive = Field(
        0.5,
        description="largest file that a step may write, GiB: the strong model's states of all unlabelled items, its "
        "weights drawn anew for the audits",
    )
    sandbox_reuse: Literal["never", "wiped"] = Field(
        "never", description="`never`: a sandbox that ran foreign code is replaced; `wiped`: emptied and used again"
    )
    cache_dir: Place | None = Field(None, description="node cache of shared work; default ~/.cache/aar-cluster")
    min_free_disk_gb: NotNegative = Field(
        2.0, description="refuse to start with less free space, GiB; pause below an eighth of it"
    )

    @property
    def memory_bytes(self) -> int:
        """`memory_gb` in bytes."""
        return int(self.memory_gb * GIB)

    @property
    def file_bytes(self) -> int:
        """`file_gb` in bytes."""
        return int(self.file_gb * GIB)


class Runs(Strict):
    """Sizes and limits of weak-to-strong runs."""

    pilot_gpus: Annotated[float, Field(ge=0.05, le=1)] = Field(0.5, description="fraction of a GPU of a pilot")
    full_gpus: Annotated[float, Field(ge=0.05, le=1)] = Field(1.0, description="fraction of a GPU of a counted run")
    pilot_items: Count = Field(400, description="items of pool A that a pilot trains on")
    pilot_seconds: Positive = Field(60, description="wall limit of a pilot run")
    seed_seconds: Positive = Field(
        90,
        description="wall limit of one seed of a counted run; teachers, ceilings and baselines may take 4 times that",
    )
    pretrain_seconds: Positive = Field(900, description="wall limit of pretraining a model")
    predict_seconds: Positive = Field(
        60,
        description="wall limit of applying a model to one set of items; also of its states and zero-shot prediction",
    )
    slack_seconds: Positive = Field(
        30, description="what a lease of training may take beside it: applying its students, moving files"
    )
    student_mb: Count = Field(
        64, description="largest student file, MiB: float32; a rank-32 adapter of 4 billion parameters takes 253"
    )


class Scoring(Strict):
    """The three tiers (seeds, noise, limits)."""

    dev_seeds: Count = 3
    board_seeds: Count = 5
    seal_seeds: Annotated[int, Field(ge=2, le=10**12)] = 10
    dev_noise: NotNegative = Field(0.02, description="standard deviation added to a DEV answer, accuracy")
    dev_round: Positive = Field(0.02, description="step to which a DEV answer is rounded, accuracy")
    dev_limit: Count = Field(300, description="DEV answers in a whole campaign")
    board_limit: Count = Field(40, description="BOARD submissions in a whole campaign (k of the Ladder)")
    finalists: Count = Field(3, description="methods that go to SEAL")
    seeds_per_lease: Count = 5
    disguise: bool = Field(
        True,
        description="generated domains: counted runs happen in a world drawn from the campaign's secret, see other "
        "words, a strong model that reads them, and no two works of one problem; without it, cheats that read the text "
        "or bring the public world along are left to the audits",
    )
    shortcuts: Literal["balance", "keep"] = Field(
        "balance",
        description="tasks from files: balance chooses unlabelled items, one a question, whose statistics tell nothing "
        "of the truth; keep takes all, and records say that they do not cover shortcuts",
    )
    reply_seconds: NotNegative = Field(60, description="answers are given at multiples of this time; 0: at once")


class Research(Strict):
    """When the research phase ends."""

    minutes: Positive = Field(description="longest duration of the research phase")
    plateau_minutes: Annotated[Positive | None, LIMIT] = Field(
        None, description="end earlier when the board has not moved for this long; none: never"
    )


class Forum(Strict):
    """The shared forum."""

    enabled: bool = Field(True, description="control `no-forum` turns it off")
    posts_per_researcher: Count = 400
    posts_per_minute: Count = Field(60, description="posts of one researcher within any minute")
    pushes_per_researcher: Count = Field(
        2000, description="snapshots of code that one researcher pushes, submitted ones too"
    )
    pushes_per_minute: Count = Field(30, description="pushes of one researcher within any minute")
    claim_minutes: Positive = Field(15, description="after which a claim on an idea expires")


class CampaignConfig(Strict):
    """Everything that a campaign is."""

    preset: str = Field(description="where this configuration came from")
    seed: Seed = 0
    task: Task
    brain: Brain = Brain()
    researchers: Researchers
    budget: Budgets
    pool: Pool = Pool()
    runs: Runs = Runs()
    scoring: Scoring = Scoring()
    research: Research
    forum: Forum = Forum()
    diversity: Diversity = Diversity()
    gateway: Gateway = Gateway()
    serve: Serve = Serve()
    allow_unsandboxed: bool = Field(
        False, description="run without a usable sandbox; every record is marked unverified"
    )

    def direction_of(self, researcher: str) -> Direction:
        """What a researcher starts from. Raises `ValueError` for an unknown one."""
        team = self.researchers
        return team.directions[0 if team.identical else self.researcher_ids().index(researcher)]

    def researcher_ids(self) -> tuple[str, ...]:
        """Stable ids `01-<direction>`, in order."""
        return tuple(f"{n:02d}-{d.id}" for n, d in enumerate(self.researchers.directions, start=1))
