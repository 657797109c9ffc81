"""How an experiment fine-tunes: the fixed protocol of teachers, and that of ceilings and students."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from gpu_pool.weak_to_strong.domains import FinetuneSpec
from gpu_pool.weak_to_strong.errors import TrainingError
from gpu_pool.weak_to_strong.run import RunParams
from gpu_pool.weak_to_strong.trainer import TrainConfig

_PER_RUN = {"seed", "seconds", "threads", "device"}


class Protocol(RunParams):
    """The fixed part of RunParams, for all seeds."""

    def of_seed(self, seed: int, device: str) -> Protocol:
        """The same for one run."""
        return self.model_copy(update={"seed": seed, "device": device})

    def key(self) -> dict[str, Any]:
        """What the result of a seed depends on, as JSON."""
        return self.model_dump(mode="json", exclude=_PER_RUN)

    @classmethod
    def of_domain(cls, spec: FinetuneSpec) -> Protocol:
        """The protocol that a generated domain fixes for its teachers or its students."""
        return cls(epochs=spec.epochs, lr=spec.lr, batch=spec.batch, members=spec.members)

    @classmethod
    def of_config(cls, config: TrainConfig) -> Protocol:
        """The protocol of a preset: what this class has no field for must be TrainConfig's default."""
        return cls(
            epochs=config.epochs, lr=config.lr, batch=config.batch_size, trainable=config.trainable, betas=config.betas
        )

    def changed(self, **given: Any) -> Protocol:
        """This protocol with those of `given` that are not None; TrainingError names a value that is refused."""
        chosen = {name: value for name, value in given.items() if value is not None}
        try:
            protocol = Protocol.model_validate(self.model_dump() | chosen)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise TrainingError(
                f"{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}"
            ) from error
        protocol.train_config()  # checks `trainable` and betas
        return protocol
