"""The real vLLM against transformers on one model folder: equal greedy texts, equal probabilities."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_pool.weak_to_strong.generation import TransformersGenerator, label_log_probs
from gpu_pool.weak_to_strong.models import LabelModel, sigmoid
from tests.tiny_qwen import make_tiny_qwen
from tests.unit.weak_to_strong import vllm_cases
from tests.unit.weak_to_strong.vllm_cases import PROMPTS, TAILS, some_pairs
from tests.vllm_environment import ROOT, needs_vllm, vllm_python

TOLERANCE = 2e-3
"""Nats: both sum the same float32 numbers in another order."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_qwen(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def written(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What vLLM made of it, in its own environment."""
    place = tmp_path_factory.mktemp("vllm")
    env = {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        "PYTHONPATH": str(ROOT),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    words = [
        str(vllm_python()),
        str(Path(vllm_cases.__file__)),
        str(folder),
        str(place / "saved"),
        str(place / "out.json"),
    ]
    done = subprocess.run(words, env=env, cwd=place, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    out: dict[str, Any] = json.loads((place / "out.json").read_text())
    return out


@pytest.fixture(scope="module")
def own(folder: Path) -> tuple[LabelModel, TransformersGenerator]:
    model = LabelModel.load(folder, "pair")
    return model, TransformersGenerator(model.lm, model.tokenizer)


def test_choices_through_a_generator_give_the_models_own_zero_shot_opinion(
    own: tuple[LabelModel, TransformersGenerator],
) -> None:
    model, writer = own
    found = label_log_probs(writer, model, some_pairs(), prior=True)
    margin = found[:, 1] - found[:, 0]
    assert np.allclose(sigmoid(margin - np.median(margin)), model.zero_shot(some_pairs()), atol=1e-4)
    assert (np.exp(found).sum(axis=1) < 1).all()


@needs_vllm
@pytest.mark.timeout(1000)
def test_greedy_texts_are_the_same(written: dict[str, Any], own: tuple[LabelModel, TransformersGenerator]) -> None:
    expected = own[1].generate(PROMPTS, n=2, max_tokens=24, temperature=0)
    assert written["greedy"] == expected
    assert len({texts[0] for texts in expected}) > 2


@needs_vllm
def test_scores_of_continuations_are_the_same(
    written: dict[str, Any], own: tuple[LabelModel, TransformersGenerator]
) -> None:
    assert np.allclose(written["scores"], own[1].score(PROMPTS, TAILS), atol=TOLERANCE)
    assert written["scores"][1] == 0


@needs_vllm
def test_label_tokens_have_the_same_probabilities(
    written: dict[str, Any], own: tuple[LabelModel, TransformersGenerator]
) -> None:
    model, writer = own
    expected = label_log_probs(writer, model, some_pairs(), prior=True)
    assert np.allclose(written["labels"], expected, atol=TOLERANCE)
    assert np.ptp(expected, axis=0).min() > 100 * TOLERANCE  # the items differ by far more than the tolerance


@needs_vllm
def test_sampling_follows_the_seed_and_equal_prompts_have_streams_of_their_own(written: dict[str, Any]) -> None:
    first, again, other = written["sampled"]
    assert first == again != other
    assert PROMPTS[3] == PROMPTS[4]
    assert first[3] != first[4]
    assert len(set(first[3])) == 3


@needs_vllm
def test_a_prompt_longer_than_the_context_is_named(written: dict[str, Any]) -> None:
    assert "vllm refuses a prompt" in written["too long"]
