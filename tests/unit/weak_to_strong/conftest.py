from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from gpu_pool.weak_to_strong.domains import Domain, ModelShape, PretrainSpec, get_domain, write_pretrain_inputs
from gpu_pool.weak_to_strong.domains.chat import ChatDomain, ChatWorld
from gpu_pool.weak_to_strong.domains.verify import VerifyDomain, VerifyWorld
from gpu_pool.weak_to_strong.models import LabelModel
from gpu_pool.weak_to_strong.pretrain import pretrain_model

TINY = ModelShape(hidden=16, layers=2, head_dim=8)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def tiny_domain(name: str = "chat", world_seed: int = 0) -> Domain:
    """A world of a few dozen words."""
    spec = get_domain(name, "quick").spec
    pretraining = PretrainSpec(TINY, steps=3, seed=0, batch=8, row=16)
    spec = dataclasses.replace(spec, documents=200, strong=pretraining, weak=pretraining)
    if name == "chat":
        return ChatDomain(spec, ChatWorld(remedies=40), world_seed)
    return VerifyDomain(spec, VerifyWorld(subject="math" if name == "math" else "code", claims=30), world_seed)


@pytest.fixture(scope="session")
def chat() -> Domain:
    return tiny_domain("chat")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, chat: Domain) -> Path:
    """A model folder of the tiny chat world, after three steps of pretraining."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("model")
    params = write_pretrain_inputs(chat, "strong", root / "in")
    pretrain_model(root / "in", root / "out", params)
    return root / "out"


@pytest.fixture(scope="session")
def model(folder: Path) -> LabelModel:
    return LabelModel.load(folder, "pair")
