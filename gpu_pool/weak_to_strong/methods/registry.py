"""Every method of the library by name, with typed parameters; `source_of` writes each as a plain method file.

Most are published, or follow a published one; the docstring of a file names the source, or calls it this project's own.

A method file of this package holds its parameters as constants at its top, with the values that `PARAMS` gives as
defaults; `source_of` puts other values in their place. Needs neither torch nor transformers.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gpu_pool.weak_to_strong.errors import MethodError


class Params(BaseModel):
    """Parameters of a method; each field is a constant of the method file, in capitals."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Share = Field(default=0.5, gt=0, le=1, description="share of the items that is kept")
HelperEpochs = Field(default=2, ge=1, le=20, description="epochs of students that only make labels or choices")
Rate = Field(default=0.5, gt=0, lt=1, description="share of label 1; one half assumes that the classes are balanced")
Layer = Field(default=-1, description="layer that is read; negative: from the top")


class _Share(Params):
    share: float = Share


class _Threshold(Params):
    low: float = Field(default=0.25, ge=0, le=1)
    high: float = Field(default=0.75, ge=0, le=1, description="items at or below this certainty are dropped")


class _Logconf(Params):
    strength: float = Field(default=0.75, ge=0, le=1, description="final weight of the student's own labels")
    warmup: float = Field(default=0.2, ge=0, le=1, description="share of training over which it rises")


class _Product(Params):
    power: float = Field(default=1.0, ge=0, description="final exponent of the student's own probability")
    warmup: float = Field(default=0.2, ge=0, le=1)
    weak_power: float = Field(default=1.0, ge=0, description="exponent of the teacher's probability")


class _Gce(Params):
    q: float = Field(default=0.7, gt=0, le=1, description="towards 0 cross entropy, at 1 mean absolute error")


class _ReverseKl(Params):
    floor: float = Field(default=0.02, gt=0, lt=0.5, description="least probability of a label in the target")


class _Smoothing(Params):
    share: float = Field(default=0.2, ge=0, le=1, description="share of the target given to a half")


class _Elr(Params):
    strength: float = Field(default=3.0, ge=0)
    memory: float = Field(default=0.7, ge=0, lt=1)


class _Drop(Params):
    drop: float = Field(default=0.4, ge=0, lt=1, description="share of each batch that is left out in the end")


class _Helper(Params):
    helper_epochs: int = HelperEpochs


class _Bagging(_Helper):
    members: int = Field(default=4, ge=2, le=32)


class _Overlap(_Share):
    hard_share: float = Field(default=0.5, gt=0, lt=1, description="share of the items called hard for the teacher")
    neighbours: int = Field(default=10, ge=1)
    layer: int = Layer


class _BornAgain(_Helper):
    rounds: int = Field(default=2, ge=1, le=10)


class _Bootstrap(_Helper):
    stages: tuple[str, ...] = Field(default=("probe", "top:1"), min_length=1, description="probe, top:k, head or full")


class _Em(_Helper):
    rounds: int = Field(default=2, ge=1, le=10)
    bins: int = Field(default=4, ge=1, le=100, description="bins of teacher confidence; 1: the class alone")
    start: Literal["students", "prior"] = "students"


class _FewShot(Params):
    shots: tuple[int, ...] = Field(default=(2, 4, 16), min_length=1)


class _Critic(Params):
    samples: int = Field(default=2, ge=1, le=64, description="critiques of an item, of which the best is learnt")
    tokens: int = Field(default=6, ge=1, description="length of a critique, for the generated domains")
    temperature: float = Field(default=0.5, gt=0)
    rounds: int = Field(default=1, ge=1)
    judge_epochs: int = Field(default=4, ge=1)
    engine: Literal["transformers", "vllm"] = Field(default="transformers", description="what writes the critiques")


class _Ccs(Params):
    contrast: Literal["auto", "labels", "swap"] = "auto"
    layer: int = Layer
    restarts: int = Field(default=10, ge=1)
    choose: Literal["loss", "weak"] = "weak"
    rate: float = Rate


class _Layer(Params):
    layer: int = Layer


class _Probe(_Layer):
    l2: float = Field(default=0.01, ge=0)


class _Principal(_Layer):
    components: int = Field(default=4, ge=1)


class _LpFt(Params):
    epochs: int = Field(default=2, ge=1)
    lr_scale: float = Field(default=0.2, gt=0, description="learning rate over the protocol's")


class _Ema(Params):
    decay: float = Field(default=0.99, ge=0, lt=1)


class _Epochs(Params):
    epochs: int = Field(default=2, ge=1)


class _Top(Params):
    top: int = Field(default=1, ge=1, description="upper layers that move")


class _Mdl(_Share):
    order: Literal["confidence", "code"] = "confidence"
    easy_epochs: int = Field(default=2, ge=1)
    all_epochs: int = Field(default=3, ge=1)


class _Epiplexity(_Helper):
    most: float = Field(default=0.6, ge=0, le=1, description="smoothing of the label from which least can be learnt")


class _Evolution(_Layer):
    generations: int = Field(default=60, ge=1)
    population: int = Field(default=24, ge=2)


class _EvolutionLora(Params):
    labels: Literal["weak", "ccs"] = "weak"
    rate: float = Rate
    epochs: int = Field(default=2, ge=1)
    rank: int = Field(default=2, ge=1)
    generations: int = Field(default=20, ge=1)
    population: int = Field(default=10, ge=2)


PARAMS: dict[str, type[Params]] = {
    "vanilla": Params,
    "soft": Params,
    "confident": _Share,
    "confident_threshold": _Threshold,
    "confidence_weighting": Params,
    "logconf": _Logconf,
    "product": _Product,
    "gce": _Gce,
    "reverse_kl": _ReverseKl,
    "label_smoothing": _Smoothing,
    "elr": _Elr,
    "small_loss": _Drop,
    "co_teaching": _Drop,
    "teacher_ensemble": Params,
    "agreement": _Helper,
    "bagging": _Bagging,
    "overlap_density": _Overlap,
    "cross_fit": _Helper,
    "born_again": _BornAgain,
    "bootstrap": _Bootstrap,
    "em_posterior": _Em,
    "ue_zeroshot": Params,
    "ue_fewshot": _FewShot,
    "critic": _Critic,
    "ccs": _Ccs,
    "probe": _Probe,
    "diff_means": _Layer,
    "principal": _Principal,
    "probe_distilled": _Layer,
    "lp_ft": _LpFt,
    "wise_ft": _Share,
    "ema": _Ema,
    "early_stop": _Epochs,
    "frozen": _Top,
    "mdl_curriculum": _Mdl,
    "epiplexity": _Epiplexity,
    "evolution": _Evolution,
    "evolution_lora": _EvolutionLora,
}
"""Parameters of each method, in the order of a table."""


def names() -> tuple[str, ...]:
    """All methods."""
    return tuple(PARAMS)


def path_of(name: str) -> Path:
    """The file of a method with its default parameters; raises MethodError for a name that does not exist."""
    if name not in PARAMS:
        raise MethodError(f"method {name!r}: expected one of {', '.join(PARAMS)}")
    return Path(__file__).with_name(f"{name}.py")


def describe(name: str) -> str:
    """The first line of the method file's docstring: what it does and where it comes from."""
    return path_of(name).read_text(encoding="utf-8").split("\n", 1)[0].strip('"')


def parameters(name: str, **given: Any) -> Params:
    """The method's parameters, checked; raises MethodError that names the parameter and what was expected."""
    path_of(name)
    try:
        return PARAMS[name].model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        known = ", ".join(PARAMS[name].model_fields) or "none"
        raise MethodError(f"method {name!r}, parameter {where}: {first['msg']} (parameters: {known})") from error


def source_of(name: str, **given: Any) -> str:
    """The plain method file of `name` with the given parameters as literals; errors as in `parameters`."""
    source = path_of(name).read_text(encoding="utf-8")
    for field, value in parameters(name, **given):
        literal = f'"{value}"' if isinstance(value, str) else repr(value).replace("'", '"')
        found = re.search(rf"^{field.upper()}(: [^=]+)? = .*$", source, re.MULTILINE)
        if found is None:
            raise MethodError(f"method {name!r} has no constant {field.upper()}")
        source = f"{source[: found.start()]}{field.upper()}{found[1] or ''} = {literal}{source[found.end() :]}"
    return source
