"""Models that judge items: `LabelModel` and what it is made of."""

from __future__ import annotations

from gpu_pool.weak_to_strong.models.activations import FloatArray, sigmoid, softmax
from gpu_pool.weak_to_strong.models.batches import Tokens, pad
from gpu_pool.weak_to_strong.models.label_model import LabelModel
from gpu_pool.weak_to_strong.models.weights import initial_lm, save_weights

__all__ = ["FloatArray", "LabelModel", "Tokens", "initial_lm", "pad", "save_weights", "sigmoid", "softmax"]
