from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from gpu_pool.weak_to_strong.domains import Domain
from gpu_pool.weak_to_strong.errors import ModelError
from gpu_pool.weak_to_strong.generation import TransformersGenerator, VllmGenerator, left_padded
from gpu_pool.weak_to_strong.models import LabelModel


@pytest.fixture
def prompts(chat: Domain, model: LabelModel) -> list[str]:
    return chat.sample(12, 4)[0].render(model.fmt)


def test_padding_stands_on_the_left() -> None:
    ids, mask = left_padded([[5, 6], [7]], pad=0)
    assert ids.tolist() == [[5, 6], [0, 7]]
    assert mask.tolist() == [[1, 1], [0, 1]]


def test_a_batch_writes_what_each_prompt_alone_would(model: LabelModel, prompts: list[str]) -> None:
    writer = TransformersGenerator(model.lm, model.tokenizer)
    together = writer.generate(prompts, max_tokens=6, temperature=0)
    alone = [writer.generate([prompt], max_tokens=6, temperature=0)[0] for prompt in prompts]
    assert together == alone
    # The first greedy token, found without the generator.
    ids = torch.tensor([model.tokenizer.backend_tokenizer.encode(prompts[0]).ids])
    first = int(model.lm(input_ids=ids).logits[0, -1].argmax())
    assert together[0][0].split()[:1] == model.tokenizer.backend_tokenizer.decode([first]).split()


def test_sampling_follows_the_seed_and_leaves_the_global_state(model: LabelModel, prompts: list[str]) -> None:
    writer = TransformersGenerator(model.lm, model.tokenizer)
    state = torch.random.get_rng_state()
    one = writer.generate(prompts, n=3, max_tokens=5, seed=1)
    assert torch.equal(state, torch.random.get_rng_state())
    assert one == writer.generate(prompts, n=3, max_tokens=5, seed=1)
    assert one != writer.generate(prompts, n=3, max_tokens=5, seed=2)
    assert [len(texts) for texts in one] == [3] * len(prompts)


def test_a_score_is_the_log_probability_of_the_continuation(model: LabelModel, prompts: list[str]) -> None:
    words = [prompt.split()[1] for prompt in prompts]
    tails = [f"{word} {word}" for word in words[:-1]] + [""]
    scores = TransformersGenerator(model.lm, model.tokenizer).score(prompts, tails)
    backend = model.tokenizer.backend_tokenizer
    for prompt, tail, score in zip(prompts, tails, scores, strict=True):
        head = backend.encode(prompt).ids
        behind = backend.encode(tail, add_special_tokens=False).ids
        log_p = torch.log_softmax(model.lm(input_ids=torch.tensor([head + behind])).logits[0], -1)
        expected = sum(log_p[len(head) - 1 + k, token].item() for k, token in enumerate(behind))
        assert score == pytest.approx(expected, abs=1e-3)
    assert scores.dtype == np.float32


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vllm is installed")
def test_without_vllm_the_remedy_is_named() -> None:
    with pytest.raises(ModelError, match="pip install"):
        VllmGenerator("nowhere")
