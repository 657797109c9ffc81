"""From the words of a direction to a leaning in the recipe space.

A direction says where to look first, not what works: it makes some building blocks more likely to be tried and
sets how much is bred from what is known. Directions whose words are unknown get a leaning of their own, drawn
from their text.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Any

from gpu_pool.weak_to_strong.recipes import CHOICES, VANILLA, Recipe, canonical, mutate

Block = tuple[str, Any]


@dataclass(frozen=True, slots=True)
class Theme:
    """Words that point to building blocks; `breeding` is the share of ideas bred from known ones."""

    words: str
    blocks: tuple[Block, ...]
    breeding: float = 0.35


THEMES: tuple[Theme, ...] = (
    Theme(
        r"unsupervised|elicit|believe|zero.?shot|prior|already know",
        (("prior_share", 1.0), ("relabel", "elicit"), ("relabel", "ccs"), ("trainable", "principal")),
    ),
    Theme(
        r"reweight|weighting|trust|trusted|filter|select",
        (
            ("weighting", "confidence"),
            ("selection", "confident"),
            ("selection", "agreement"),
            ("selection", "overlap"),
            ("selection", "threshold"),
        ),
    ),
    Theme(
        r"combin|together|both|mix",
        (("prior_share", 0.25), ("prior_share", 0.5), ("relabel", "em_prior"), ("relabel", "probe")),
    ),
    Theme(
        r"channel|posterior|bayes|noise|noisy|infer",
        (("relabel", "em"), ("relabel", "em_prior"), ("rounds", 3), ("loss", "gce")),
    ),
    Theme(
        r"distil|teach|rounds|born|student",
        (("relabel", "self_train"), ("relabel", "crossfit"), ("rounds", 3), ("members", 3)),
    ),
    Theme(
        r"simpl|capacity|low.?rank|frozen|regulari",
        (("trainable", "top:1"), ("trainable", "top:2"), ("trainable", "head"), ("wise", 0.75), ("epochs", 1)),
    ),
    Theme(
        r"epiplex|early|late|curricul|order|learnt first|easy",
        (("relabel", "epiplexity"), ("selection", "small_loss"), ("curriculum", True), ("epochs", 2), ("ema", 0.99)),
    ),
    Theme(
        r"evol|search|mutation|genetic|population",
        (("trainable", "evolution"), ("members", 3), ("selection", "agreement"), ("relabel", "crossfit")),
        breeding=0.75,
    ),
    Theme(
        r"interpret|inside|activation|hidden|direction that|neuron|probe|circuit",
        (
            ("trainable", "probe"),
            ("trainable", "diff_means"),
            ("trainable", "principal"),
            ("relabel", "probe"),
            ("relabel", "ccs"),
            ("start", "probe"),
        ),
    ),
    Theme(
        r"confiden|loss|robust|objective|entropy",
        (("loss", "logconf"), ("loss", "gce"), ("loss", "reverse_kl"), ("loss", "product"), ("strength", 0.75)),
    ),
    Theme(r"ensembl|committee|vote|average|diversity", (("members", 3), ("ema", 0.95), ("ema", 0.99))),
)
DRAWN_BLOCKS = 4


@dataclass(frozen=True, slots=True)
class Leaning:
    """Building blocks that a direction prefers, and the share of ideas that it breeds from known ones."""

    blocks: tuple[Block, ...]
    breeding: float

    @classmethod
    def of(cls, text: str) -> Leaning:
        """The leaning of a direction's text: its themes, the more often named the more weight."""
        lowered = text.casefold()
        hits = [(theme, len(re.findall(theme.words, lowered))) for theme in THEMES]
        found = [(theme, count) for theme, count in hits if count]
        if not found:
            rng = random.Random(lowered)
            options = [(name, value) for name, values in CHOICES.items() for value in values]
            drawn = [block for block in options if block[1] != getattr(VANILLA, block[0])]
            return cls(tuple(rng.sample(drawn, DRAWN_BLOCKS)), Theme("", ()).breeding)
        blocks = tuple(block for theme, count in found for block in theme.blocks * count)
        return cls(blocks, max(theme.breeding for theme, _ in found))

    def sample(self, rng: random.Random) -> Recipe:
        """A recipe of this direction: one or two preferred blocks on vanilla, then one or two changes of any kind."""
        for _ in range(8):
            chosen = dict(rng.choice(self.blocks) for _ in range(rng.randint(1, 2)))
            recipe = canonical(VANILLA.model_copy(update=chosen))
            if recipe != VANILLA:
                break
        for _ in range(rng.randint(1, 2)):
            changed = mutate(recipe, rng)
            recipe = changed if self.fits(changed) or not self.fits(recipe) else recipe
        return recipe

    def fits(self, recipe: Recipe) -> bool:
        """Return True if a recipe holds a preferred block."""
        return any(getattr(recipe, name) == value for name, value in self.blocks)
