"""Everything a step would otherwise import or set up for itself, done once in the warm process.

transformers imports a model's code when the first one is built, and torch sets up its optimisers at the first step:
together about a second of each forked step. `warm_up` takes a tiny model through all of it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from cluster.trees import remove_tree
from gpu_pool.weak_to_strong.formats import FORMATS
from gpu_pool.weak_to_strong.items import Item, ItemSet
from gpu_pool.weak_to_strong.models import LabelModel
from gpu_pool.weak_to_strong.pretrain import pretrain_model
from gpu_pool.weak_to_strong.student import Student
from gpu_pool.weak_to_strong.trainer import TrainConfig, finetune

_CONFIG = {
    "model_type": "qwen3",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
_WORDS = "<pad> <bos> <unk> task work user A B pick better verdict grade wrong right a b c"


def warm_up() -> None:
    """Pretrain, load, fine-tune, save and run a tiny model in a temporary directory, which is removed."""
    root = Path(tempfile.mkdtemp())
    try:
        vocabulary = {word: i for i, word in enumerate(_WORDS.split())}
        tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
        tokenizer.pre_tokenizer = WhitespaceSplit()
        tokenizer.save(str(root / "tokenizer.json"))
        (root / "model_config.json").write_text(json.dumps({**_CONFIG, "vocab_size": len(vocabulary)}))
        save_file({"tokens": torch.zeros(64, dtype=torch.int32)}, root / "corpus.safetensors")
        FORMATS["binary"].save(root / "prompt.json")
        pretrain_model(root, root / "model", {"steps": 1, "batch": 2, "row": 8})
        items = ItemSet.of([Item(str(i), "binary", "a b", "c") for i in range(8)])
        base = LabelModel.load(root / "model", "binary")
        model = base.copy()
        finetune(model, model.tokenize(items), [0.0, 1.0] * 4, TrainConfig(epochs=1, batch_size=4))
        Student.from_model(model, base).save(root / "student.safetensors")
        Student.load(root / "student.safetensors", base).predict(items)
        base.zero_shot(items)
    finally:
        remove_tree(root)
