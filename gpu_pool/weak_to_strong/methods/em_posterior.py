"""EM posterior: the teacher as a noisy channel, the cross-fitted student as the prior (Dawid & Skene 1979).

The published researchers' most transferable method. The channel's rates differ by class and, with more than one bin, by
the teacher's confidence. `START = "prior"` begins with the zero-shot prediction over several question texts.
"""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, blocks

ROUNDS = 2
BINS = 4
START = "students"
HELPER_EPOCHS = 2


def train(run: MethodRun) -> Student:
    """Posterior labels after ROUNDS rounds, the task's fixed protocol."""
    prior = blocks.template_prior(run) if START == "prior" else None
    helper = run.config(epochs=HELPER_EPOCHS)
    labels = blocks.em_posterior(run, rounds=ROUNDS, config=helper, prior=prior, bins=BINS)
    return run.student(run.fit(labels))
