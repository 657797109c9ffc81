"""The shipped worlds: sizes that were measured on one CPU core, and how to get one by name.

`quick` is the quickstart's. Measured with world seed 0, two or three seeds (`python scripts/bench/methods.py`):

             teacher   ceiling   vanilla PGR   `ue_zeroshot` PGR   vanilla without pretraining
    chat     .62       .95       .23           .08                 (not measured)
    math     .69       .99       .26           .5                  PGR -.2
    code     .77       .99       .2            -.9                 PGR -.25

Worlds differ: with world seed 1 `vanilla` recovers .42 on chat and .07 on math, `ue_zeroshot` .67 and .00 (two seeds,
solutions of math still with their totals).

The share of graded documents is a steep dial of the zero-shot prediction, that of swayed graders a gentle one (math:
right on .97 with .012 graded and none swayed, on .89 with .02 graded and .4 of them swayed, on items of an earlier
kind).

`standard` is larger: its students have three layers of width 64. Its labelled items give teachers of about .63 to .71
on chat (at 2,400 of them) and .69 on math; no method was measured on it since items are drawn without a look at the
truth.
"""

from __future__ import annotations

from cluster.training import Training
from gpu_pool.weak_to_strong.domains.base import Domain, DomainSpec, ModelShape, PretrainSpec, Size
from gpu_pool.weak_to_strong.domains.chat import ChatDomain, ChatWorld
from gpu_pool.weak_to_strong.domains.verify import VerifyDomain, VerifyWorld
from gpu_pool.weak_to_strong.errors import W2SError


def _full(epochs: int, lr: float, members: int = 1) -> Training:
    """Tiny models are trained whole, and forget sooner what a gradient was: more would not help them."""
    return Training(epochs=epochs, lr=lr, trainable="full", betas=(0.9, 0.98), members=members)


DOMAIN_NAMES = ("chat", "math", "code")
_WEAK = ModelShape(hidden=24, layers=2, head_dim=8)
# The teacher hardly knows its world from pretraining and learns word by word from its labels: then its accuracy hardly
# varies over seeds (sd .02). With four times the steps it sometimes finds the latent attribute and sometimes does not
# (sd .05 to .07, measured).
_WEAK_PAIR = PretrainSpec(_WEAK, steps=60, seed=1)
_WEAK_BINARY = PretrainSpec(_WEAK, steps=60, seed=1, batch=32)
_STRONG_STANDARD = PretrainSpec(ModelShape(hidden=64, layers=3, head_dim=16), steps=1000, seed=0)
_TEACHER = _full(epochs=6, lr=1e-3, members=4)  # four members: steadier over seeds than one
_STUDENT_QUICK = _full(epochs=5, lr=1e-3)  # in batches of 64 one epoch is too few steps to learn anything
_STUDENT_CHAT = _full(epochs=4, lr=1e-3)  # vanilla's PGR falls with epochs: .51, .27, .13 after 3, 4, 5
_STUDENT = _full(epochs=5, lr=5e-4)


def _strong_quick(hidden: int, steps: int) -> PretrainSpec:
    return PretrainSpec(ModelShape(hidden=hidden, layers=2, head_dim=16), steps=steps, seed=0, batch=32)


_QUICK = {
    "chat": DomainSpec(
        "chat", "pair", "quick", labelled=1600, unlabelled=1000, test=2000, documents=80_000,
        strong=_strong_quick(64, 1100), weak=_WEAK_PAIR, teacher=_TEACHER, student=_STUDENT_CHAT,
    ),
    "math": DomainSpec(
        "math", "binary", "quick", labelled=600, unlabelled=1000, test=2000, documents=100_000,
        strong=_strong_quick(48, 1100), weak=_WEAK_BINARY, teacher=_TEACHER, student=_STUDENT_QUICK,
    ),
    "code": DomainSpec(
        "code", "binary", "quick", labelled=600, unlabelled=1000, test=2000, documents=100_000,
        strong=_strong_quick(48, 1100), weak=_WEAK_BINARY, teacher=_TEACHER, student=_STUDENT_QUICK,
    ),
}  # fmt: skip

_STANDARD = {
    "chat": DomainSpec(
        "chat", "pair", "standard", labelled=2000, unlabelled=1500, test=2000, documents=100_000,
        strong=_STRONG_STANDARD, weak=_WEAK_PAIR, teacher=_TEACHER, student=_STUDENT,
    ),
    "math": DomainSpec(
        "math", "binary", "standard", labelled=800, unlabelled=1500, test=2000, documents=120_000,
        strong=_STRONG_STANDARD, weak=_WEAK_BINARY, teacher=_TEACHER, student=_STUDENT,
    ),
    "code": DomainSpec(
        "code", "binary", "standard", labelled=800, unlabelled=1500, test=2000, documents=120_000,
        strong=_STRONG_STANDARD, weak=_WEAK_BINARY, teacher=_TEACHER, student=_STUDENT,
    ),
}  # fmt: skip

_CHAT = {
    "quick": ChatWorld(remedies=300, corpus_bias=0.42, reacted=0.03, paired=0.3, compared=0.02),
    "standard": ChatWorld(paired=0.3, compared=0.02),
}
_MATH = {
    "quick": VerifyWorld(claims=300, graded=0.02, swayed=0.4, grade_wrong=0.2),
    "standard": VerifyWorld(graded=0.02, swayed=0.4, grade_wrong=0.2),
}


def _code_world(claims: int) -> VerifyWorld:
    return VerifyWorld(subject="code", claims=claims, graded=0.004, style=0.35, style_agrees=0.75)


_CODE = {"quick": _code_world(280), "standard": _code_world(400)}


def get_domain(name: str, size: Size = "standard", world_seed: int = 0) -> Domain:
    """The world `name` (chat, math, code) of that size; raises W2SError for a name or size that does not exist."""
    specs = {"quick": _QUICK, "standard": _STANDARD}.get(size)
    if specs is None or name not in specs:
        raise W2SError(f"domain {name!r} size {size!r}: expected one of {DOMAIN_NAMES} and quick or standard")
    if name == "chat":
        return ChatDomain(specs[name], _CHAT[size], world_seed)
    worlds = _MATH if name == "math" else _CODE
    return VerifyDomain(specs[name], worlds[size], world_seed)
