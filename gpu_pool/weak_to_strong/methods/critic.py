"""Critic training: critiques, a judge, best-of-n fine-tuning of the critic, labels by the judge.

After the published critic baseline, with rejection sampling (arXiv 2203.14465, 2304.06767) in place of GRPO.
"""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, blocks

SAMPLES = 2
TOKENS = 6
TEMPERATURE = 0.5
ROUNDS = 1
JUDGE_EPOCHS = 4


def train(run: MethodRun) -> Student:
    """Labels of judges that read trained critiques, the task's fixed protocol."""
    config = blocks.CriticConfig(SAMPLES, TOKENS, TEMPERATURE, judge_epochs=JUDGE_EPOCHS, rounds=ROUNDS)
    labels = blocks.hard(blocks.critique_labels(run, config))
    return run.student(run.fit(labels))
