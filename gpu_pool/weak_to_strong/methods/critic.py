"""Critic training: critiques, a judge, best-of-n fine-tuning of the critic, labels by the judge.

In place of the published critic baseline's GRPO: rejection sampling (arXiv 2203.14465, 2304.06767), with a judge that
has the weak labels only. `ENGINE` "vllm" is for long critiques on a GPU, where it is installed.
"""

from __future__ import annotations

from typing import Literal

from gpu_pool.weak_to_strong import MethodRun, Student, blocks

SAMPLES = 2
TOKENS = 6
TEMPERATURE = 0.5
ROUNDS = 1
JUDGE_EPOCHS = 4
ENGINE: Literal["transformers", "vllm"] = "transformers"


def train(run: MethodRun) -> Student:
    """Labels of judges that read trained critiques, the task's fixed protocol."""
    config = blocks.CriticConfig(SAMPLES, TOKENS, TEMPERATURE, 1, JUDGE_EPOCHS, ROUNDS, ENGINE)
    labels = blocks.hard(blocks.critique_labels(run, config))
    return run.student(run.fit(labels))
