"""Which world a domain is scored in, and which one researchers see.

A generated domain is scored in a world that is drawn from the campaign's secret: other facts, other words, models that
were pretrained on its own corpus from other initial weights. Researchers practise in the public world, whose models
all campaigns share. So nothing that a method brings along (tables of labels or words, weights, statistics of weights
that survive a rotation) is about what it is scored on, and what is scored is shown in disguise on top.

A task from files has one world; so has a generated domain with `scoring.disguise: false`, which is for experiments.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from actors.evaluator.disguise import Disguise
from actors.evaluator.file_domain import AnyDomain, FileDomain
from actors.evaluator.given import GivenModels
from actors.evaluator.jobs import Sizes
from actors.evaluator.lease_client import LeaseClient
from actors.evaluator.models import Models
from actors.evaluator.practice import Practice
from actors.evaluator.pretrained import Pretrained, public_home
from actors.evaluator.reference_runs import ReferenceRuns, Tools
from actors.evaluator.result_store import ResultStore
from actors.evaluator.secret import Secret
from actors.evaluator.splits import Splits
from cluster.config import CampaignConfig
from gpu_pool.cache import NodeCache
from gpu_pool.weak_to_strong.domains import Domain


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a domain is scored, and the public side of it where that is another world."""

    tools: Tools
    models: Models
    practice: Practice | None = None


def secret_world(domain: Domain, secret: Secret) -> Domain:
    """The world that a campaign is scored in, of the same kind and size as the public `domain` and not akin otherwise.

    Its models start from other initial weights, too, which would else tell its words apart by their order.
    """
    draw = ("secret world", domain.name)
    models = {
        which: replace(getattr(domain.spec, which), seed=secret.seed(*draw, which)) for which in ("strong", "weak")
    }
    return domain.sibling(secret.seed(*draw), replace(domain.spec, **models))


@dataclass(frozen=True, slots=True)
class Scenery:
    """What scenes of one campaign are made with; `home` is the evaluator's private folder."""

    config: CampaignConfig
    secret: Secret
    lease_client: LeaseClient
    result_store: ResultStore
    home: Path

    def scene(self, domain: AnyDomain) -> Scene:
        """The scene of one domain. Raises as `Splits`."""
        if isinstance(domain, FileDomain):
            cache = NodeCache.of(self.config.pool)
            return Scene(self._tools(domain), GivenModels(domain, cache, self.result_store))
        if not self.config.scoring.disguise:
            return Scene(self._tools(domain), self._public(domain))
        secret = secret_world(domain, self.secret)
        tools = self._tools(secret, Disguise(secret, self.secret.generator("disguise", domain.name)))
        home = tools.folder / f"secret-{domain.name}"
        return Scene(
            tools, Pretrained(secret, home, self.lease_client, self.result_store, tools.sizes), self._practice(domain)
        )

    def _tools(self, scored: AnyDomain, disguise: Disguise | None = None) -> Tools:
        scoring = self.config.scoring
        splits = Splits(self.secret, scored, alone=scoring.disguise, shortcuts=scoring.shortcuts)
        return Tools(
            splits,
            self.secret,
            self.lease_client,
            self.result_store,
            Sizes.of(self.config),
            self.home / scored.name,
            disguise,
        )

    def _public(self, domain: Domain) -> Pretrained:
        cache, seed = NodeCache.of(self.config.pool).models, self.config.task.world_seed
        return Pretrained(
            domain, public_home(domain, seed, cache), self.lease_client, self.result_store, Sizes.of(self.config)
        )

    def _practice(self, domain: Domain) -> Practice:
        """The public world's pools come from a secret of their own, so that they say nothing of the scored ones."""
        title = f"{domain.name}-practice"
        own = Secret(self.secret.draw(title))
        splits, sizes = Splits(own, domain, alone=True), Sizes.of(self.config)
        tools = Tools(splits, own, self.lease_client, self.result_store, sizes, self.home / title, title=title)
        return Practice(tools, ReferenceRuns(tools, self._public(domain)))
