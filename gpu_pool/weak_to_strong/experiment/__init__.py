"""Weak-to-strong experiments as a library, for a notebook or a script: trusted side, it holds the truth.

`Experiment` does the work; `MethodFile` names what is tried; `ModelAt` and `Pretrained` say where models come from;
`cluster.training.Training` how they are fine-tuned.
"""

from __future__ import annotations

from gpu_pool.weak_to_strong.experiment.experiment import Event, Experiment, ExperimentError, Hits, Scores
from gpu_pool.weak_to_strong.experiment.methods import MethodFile
from gpu_pool.weak_to_strong.experiment.sources import ModelAt, ModelSource, Pretrained, world_of

__all__ = [
    "Event",
    "Experiment",
    "ExperimentError",
    "Hits",
    "MethodFile",
    "ModelAt",
    "ModelSource",
    "Pretrained",
    "Scores",
    "world_of",
]
