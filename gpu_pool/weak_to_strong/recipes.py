"""A typed, composable space of methods, and the plain method file of each point in it.

A recipe is what the offline researcher searches over: every field has a range, every combination is valid. What runs is
`method_source(recipe)`: an ordinary method file that calls the building blocks, readable and editable by hand. This
module needs neither torch nor transformers.
"""

from __future__ import annotations

import random
import textwrap
from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gpu_pool.weak_to_strong.families import families_of_source

Target = Literal["hard", "soft", "smoothed"]
Relabel = Literal["none", "crossfit", "self_train", "em", "em_prior", "probe", "ccs", "elicit", "epiplexity"]
Selection = Literal["all", "confident", "threshold", "overlap", "agreement", "small_loss"]
LossName = Literal["ce", "logconf", "gce", "product", "reverse_kl"]
Trainable = Literal["full", "top:1", "top:2", "head", "probe", "diff_means", "principal", "evolution"]
PROBES = ("probe", "diff_means", "principal", "evolution")
OWN_LABELS = ("em", "em_prior", "ccs", "elicit")
"""Relabelling that starts from the teacher's or the strong model's opinion itself, not from the targets."""
KEEPS = ("confident", "threshold", "overlap", "agreement")
"""Selections that choose items before training."""


class Recipe(BaseModel):
    """One method. Fields that have no effect in a combination stand at their default after `canonical`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: Target = "hard"
    smoothing: float = Field(default=0.2, ge=0.05, le=0.5, description="share of a smoothed target given to a half")
    prior_share: float = Field(default=0.0, ge=0.0, le=1.0, description="weight of the zero-shot prior in the labels")
    relabel: Relabel = "none"
    rounds: int = Field(default=2, ge=1, le=3, description="rounds of self-training or of EM")
    helper_epochs: int = Field(default=2, ge=1, le=4, description="epochs of students that only make labels or choices")
    selection: Selection = "all"
    share: float = Field(default=0.5, ge=0.2, le=0.9, description="share kept by confident, overlap and small_loss")
    weighting: Literal["none", "confidence"] = "none"
    loss: LossName = "ce"
    strength: float = Field(default=0.5, ge=0.2, le=0.9, description="alpha of logconf, q of gce, power of product")
    trainable: Trainable = "full"
    layer: int = Field(default=-1, ge=-3, le=-1, description="layer of a probe or of ccs, from the top")
    start: Literal["pretrained", "probe"] = "pretrained"
    epochs: int = Field(default=5, ge=1, le=6, description="5 is the protocol's")
    lr_scale: float = Field(default=1.0, ge=0.1, le=10.0, description="learning rate over that of the task's protocol")
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    ema: float = Field(default=0.0, ge=0.0, le=0.995, description="decay of the weight average; 0 is off")
    wise: float = Field(default=1.0, ge=0.1, le=1.0, description="share of the tuned weights; the rest is pretrained")
    curriculum: bool = False
    members: int = Field(default=1, ge=1, le=3, description="students that are averaged")
    rate: float = Field(
        default=0.5, ge=0.1, le=0.9, description="share of label 1 that ccs gives; one half assumes balanced classes"
    )


VANILLA = Recipe()

# What a search may set each field to: values far enough apart to make a difference. The class rate is not searched.
CHOICES: dict[str, tuple[Any, ...]] = {
    "target": ("hard", "soft", "smoothed"),
    "smoothing": (0.1, 0.2, 0.4),
    "prior_share": (0.0, 0.25, 0.5, 1.0),
    "relabel": ("none", "crossfit", "self_train", "em", "em_prior", "probe", "ccs", "elicit", "epiplexity"),
    "rounds": (1, 2, 3),
    "helper_epochs": (1, 2, 3),
    "selection": ("all", "confident", "threshold", "overlap", "agreement", "small_loss"),
    "share": (0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    "weighting": ("none", "confidence"),
    "loss": ("ce", "logconf", "gce", "product", "reverse_kl"),
    "strength": (0.3, 0.5, 0.6, 0.75, 0.85),
    "trainable": ("full", "top:1", "top:2", "head", "probe", "diff_means", "principal", "evolution"),
    "layer": (-1, -2),
    "start": ("pretrained", "probe"),
    "epochs": (1, 2, 3, 5),
    "lr_scale": (0.2, 0.5, 1.0, 2.0, 4.0),
    "schedule": ("linear", "cosine", "constant"),
    "ema": (0.0, 0.95, 0.99),
    "wise": (0.5, 0.75, 1.0),
    "curriculum": (False, True),
    "members": (1, 3),
}


def canonical(recipe: Recipe) -> Recipe:
    """The recipe with every field that has no effect at its default, so that equal programs are equal recipes."""
    idle: set[str] = set()
    probe = recipe.trainable in PROBES
    if probe:
        idle |= {"weighting", "loss", "start", "epochs", "lr_scale", "schedule", "ema", "wise", "curriculum", "members"}
    if probe and recipe.selection == "small_loss":
        idle |= {"selection"}
    if recipe.trainable == "principal":
        idle |= {"target", "prior_share", "relabel", "selection"}
    fields = recipe.model_dump()
    fields |= {name: _DEFAULTS[name] for name in idle}
    if fields["relabel"] in OWN_LABELS:
        fields |= {"target": "hard", "prior_share": 0.0}
    if fields["members"] > 1:
        fields |= {"curriculum": False, "wise": 1.0}
    if fields["members"] > 1 or fields["curriculum"]:
        fields["start"] = "pretrained"
    unused = {
        "smoothing": fields["target"] != "smoothed",
        "rounds": fields["relabel"] not in ("self_train", "em", "em_prior"),
        "share": fields["selection"] not in ("confident", "overlap", "small_loss") and not fields["curriculum"],
        "strength": fields["loss"] in ("ce", "reverse_kl"),
        "layer": not probe and fields["relabel"] not in ("probe", "ccs"),
        "helper_epochs": not _trains_helpers(fields),
        "rate": fields["relabel"] != "ccs",
    }
    return Recipe(**(fields | {name: _DEFAULTS[name] for name, off in unused.items() if off}))


_DEFAULTS = VANILLA.model_dump()


def _trains_helpers(fields: dict[str, Any]) -> bool:
    relabels = fields["relabel"] in ("crossfit", "self_train", "em", "epiplexity")
    em_trains = fields["relabel"] == "em_prior" and fields["rounds"] > 1
    return relabels or em_trains or fields["selection"] == "agreement"


def sample(rng: random.Random) -> Recipe:
    """A random recipe: vanilla after two to four changes."""
    recipe = VANILLA
    for _ in range(rng.randint(2, 4)):
        recipe = mutate(recipe, rng)
    return recipe


def mutate(recipe: Recipe, rng: random.Random, fields: tuple[str, ...] | None = None) -> Recipe:
    """`recipe` with one field changed (of `fields` when given), so that the program differs; canonical.

    Gives the recipe back unchanged only when no field of `fields` can make a difference.
    """
    start = canonical(recipe)
    options = [
        (name, value) for name in fields or tuple(CHOICES) for value in CHOICES[name] if value != getattr(start, name)
    ]
    # Shuffle fields first, values second: else fields with many values would be changed more often.
    names = list(dict.fromkeys(name for name, _ in options))
    rng.shuffle(names)
    for name in names:
        values = [value for option, value in options if option == name]
        rng.shuffle(values)
        for value in values:
            changed = canonical(start.model_copy(update={name: value}))
            if changed != start:
                return changed
    return start


def crossover(a: Recipe, b: Recipe, rng: random.Random) -> Recipe:
    """Each field from one of the parents, canonical."""
    first, second = a.model_dump(), b.model_dump()
    mixed = {name: (first if rng.random() < 0.5 else second)[name] for name in CHOICES}
    return canonical(Recipe(**(first | mixed)))


def cost(recipe: Recipe) -> float:
    """Training time as a multiple of `vanilla` (measured ratios: a frozen lower part .35 to .65, probes .1)."""
    r = canonical(recipe)
    share = {"full": 1.0, "top:1": 0.35, "top:2": 0.65, "head": 0.2}.get(r.trainable, 0.0)
    helper = (share or 1.0) * r.helper_epochs / VANILLA.epochs
    passes = {"crossfit": 1, "epiplexity": 1, "self_train": r.rounds, "em": r.rounds, "em_prior": r.rounds - 1}
    once = {"probe": 0.1, "ccs": 0.2, "elicit": 0.1}.get(r.relabel, 0) + (0.1 if r.start == "probe" else 0)
    extra = helper * (passes.get(r.relabel, 0) + (1 if r.selection == "agreement" else 0)) + once
    if r.trainable in PROBES:
        return extra + 0.1
    kept = {"confident": r.share, "overlap": r.share, "agreement": 0.8, "threshold": 0.7}.get(r.selection, 1.0)
    return extra + share * r.epochs / VANILLA.epochs * kept * (1.5 if r.curriculum else 1.0) * r.members


def families(recipe: Recipe) -> list[str]:
    """Idea families of the recipe's method file (`families.FAMILIES`)."""
    return families_of_source(method_source(recipe))


def describe(recipe: Recipe) -> str:
    """One line: what differs from vanilla."""
    changes = {k: v for k, v in canonical(recipe).model_dump().items() if v != _DEFAULTS[k]}
    return ", ".join(f"{name} {value}" for name, value in changes.items()) or "vanilla"


def method_source(recipe: Recipe) -> str:
    """The method file of a recipe: `def train(run) -> Student`, built from the library's blocks and nothing else."""
    r = canonical(recipe)
    body = [*_labels(r), *_relabel(r), *_selection(r), *_training(r)]
    used = "".join(body)
    names = ["MethodRun", "Student", *(module for module in ("blocks", "losses") if f"{module}." in used)]
    lines = [
        *textwrap.wrap(f'"""{describe(r)}."""', 110),
        "",
        "from __future__ import annotations",
        "",
        f"from gpu_pool.weak_to_strong import {', '.join(names)}",
        "",
        "",
        "def train(run: MethodRun) -> Student:",
        f'    """{_summary(r)}"""',
        *(f"    {line}" for line in body),
        "",
    ]
    return "\n".join(lines)


def _labels(r: Recipe) -> list[str]:
    if r.trainable == "principal" or r.relabel in OWN_LABELS:
        return []
    if r.prior_share == 1.0 and r.target == "hard":
        return ["labels = blocks.hard(run.prior)"]
    source = "run.weak"
    if r.prior_share > 0:
        source = f"blocks.mix_prior(run.weak, run.prior, {r.prior_share:g})"
    maker = {
        "hard": "labels = blocks.hard({})",
        "soft": "labels = {}",
        "smoothed": f"labels = blocks.smooth(blocks.hard({{}}), {r.smoothing:g})",
    }
    return [maker[r.target].format(source)]


def _relabel(r: Recipe) -> list[str]:
    lines = []
    if _trains_helpers(r.model_dump()):
        trainable = "full" if r.trainable in PROBES else r.trainable
        lines = [f'helper = run.config(epochs={r.helper_epochs}, trainable="{trainable}")']
    text = {
        "none": "",
        "crossfit": "labels = blocks.hard(blocks.cross_fit(run, labels, helper))",
        "self_train": f"labels = blocks.self_train(run, labels, rounds={r.rounds}, config=helper)",
        "em": f"labels = blocks.em_posterior(run, rounds={r.rounds}, config=helper)",
        "em_prior": f"labels = blocks.em_posterior(run, rounds={r.rounds}, config=helper, prior=run.prior)",
        "probe": f"labels = blocks.fit_probe(run, labels, layer={r.layer}).probs(run.hidden)  # distil a probe",
        "ccs": f"labels = blocks.hard_at_rate(blocks.ccs(run, layer={r.layer}), {r.rate:g})",
        "elicit": "labels, _ = blocks.zero_shot_labels(run)",
        "epiplexity": "held_out = blocks.cross_fit(run, labels, helper)",
    }[r.relabel]
    if r.relabel == "em_prior" and r.rounds == 1:
        text = "labels = blocks.em_posterior(run, rounds=1, prior=run.prior)"
    more = []
    if r.relabel == "epiplexity":
        more = ["labels = blocks.adaptive_smooth(blocks.hard(held_out), blocks.loss_drop(labels, held_out))"]
    return [*lines, text, *more] if text else lines


def _selection(r: Recipe) -> list[str]:
    return {
        "confident": [f"keep = blocks.confident(run.weak, share={r.share:g})"],
        "threshold": ["keep = blocks.confident_threshold(run.weak)"],
        "overlap": [f"keep = blocks.overlap_density(run, share={r.share:g})"],
        "agreement": ["keep = blocks.agreement(run, labels, helper)"],
    }.get(r.selection, [])


def _training(r: Recipe) -> list[str]:
    keeps = r.selection in KEEPS
    keep = ", keep=keep" if keeps else ""
    if r.trainable in PROBES:
        call = {
            "probe": f"blocks.fit_probe(run, labels, layer={r.layer}{keep})",
            "diff_means": f"blocks.mean_difference(run, labels, layer={r.layer}{keep})",
            "evolution": f"blocks.evolve_probe(run, labels, layer={r.layer}{keep})",
            "principal": f"blocks.principal_probe(run, layer={r.layer})",
        }[r.trainable]
        return [f"return {call}.student(run)"]
    lines = [_config(r)]
    weights = ", weights=weights" if r.weighting == "confidence" else ""
    if weights:
        lines.append("weights = blocks.confidence_weights(run.weak)")
    if r.members > 1:
        return [*lines, f"return blocks.ensemble(run, labels, config, members={r.members}{keep}{weights})"]
    if r.curriculum:
        lines.append(f"model = blocks.curriculum(run, labels, config, share={r.share:g}{keep}{weights})")
    else:
        rows = "labels[keep], config, indices=keep" if keeps else "labels, config"
        chosen = ", weights=weights[keep]" if weights and keeps else weights
        if r.start == "probe":
            start = "blocks.start_from_probe(model, blocks.fit_probe(run, labels))"
            lines += ["model = run.strong()", start, f"run.finetune(model, {rows}{chosen})"]
        else:
            lines.append(f"model = run.fit({rows}{chosen})")
    if r.wise < 1:
        lines.append(f"model = blocks.interpolate(run, model, {r.wise:g})")
    return [*lines, "return run.student(model)"]


def _config(r: Recipe) -> str:
    loss = {
        "ce": "",
        "logconf": f"losses.logconf({r.strength:g})",
        "gce": f"losses.gce({r.strength:g})",
        "product": f"losses.product({r.strength:g})",
        "reverse_kl": "losses.reverse_kl()",
    }[r.loss]
    optional: list[tuple[bool, Callable[[], str]]] = [
        (r.epochs != VANILLA.epochs, lambda: f"epochs={r.epochs}"),
        (r.lr_scale != VANILLA.lr_scale, lambda: f"lr={r.lr_scale:g} * run.protocol.lr"),
        (r.schedule != "linear", lambda: f'schedule="{r.schedule}"'),
        (bool(loss), lambda: f"loss={loss}"),
        (r.trainable != "full", lambda: f'trainable="{r.trainable}"'),
        (r.ema > 0, lambda: f"ema={r.ema:g}"),
        (r.selection == "small_loss", lambda: f"drop_share={1 - r.share:.2g}"),
    ]
    return f"config = run.config({', '.join(text() for on, text in optional if on)})"


def _summary(r: Recipe) -> str:
    start = {
        "none": f"{r.target.capitalize()} weak labels",
        "crossfit": "Labels of out-of-fold students",
        "self_train": f"Labels after {r.rounds} rounds of self-training",
        "em": "Posterior of a noisy-channel EM",
        "em_prior": "Posterior of a noisy channel started at the zero-shot prior",
        "probe": "Labels distilled from a probe",
        "ccs": "Labels of the contrast-consistent direction",
        "elicit": "The strong model's own consistent labels",
        "epiplexity": "Out-of-fold labels, smoothed where little was learnt",
    }[r.relabel]
    if r.trainable == "principal":
        return "The principal direction of the hidden states that fits the weak labels best."
    chosen = {
        "all": "all items",
        "confident": "the items the teacher is surest of",
        "threshold": "the items above the published confidence threshold",
        "overlap": "the items where easy and hard patterns overlap",
        "agreement": "the items on which a cross-fitted student agrees",
        "small_loss": "all items, high losses dropped from each batch",
    }[r.selection]
    return f"{start}; {chosen}; {r.trainable} student."
