"""Any causal LM and encoder: states and answers equal those of transformers' own forward."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from gpu_pool.weak_to_strong import blocks
from gpu_pool.weak_to_strong.errors import ModelError, TrainingError
from gpu_pool.weak_to_strong.formats import FORMATS, PUBLISHED, PromptFormat
from gpu_pool.weak_to_strong.items import Item, ItemSet
from gpu_pool.weak_to_strong.methods import registry
from gpu_pool.weak_to_strong.models import LabelModel, initial_lm, save_weights, texts
from gpu_pool.weak_to_strong.run import MethodRun, RunParams
from gpu_pool.weak_to_strong.student import Student
from gpu_pool.weak_to_strong.trainer import TrainConfig, finetune

WORDS = [
    *("<pad>", "<bos>", "<unk>", "task", "work", "user", "A", "B", "pick", "better", "verdict", "grade"),
    *("wrong", "right"),
    *(f"w{i}" for i in range(50)),
]
SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
LLAMA = SHAPE | {"intermediate_size": 32, "num_key_value_heads": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3": LLAMA | {"model_type": "qwen3", "head_dim": 8, "tie_word_embeddings": True},
    "qwen2": LLAMA | {"model_type": "qwen2", "tie_word_embeddings": False},
    "llama": LLAMA | {"model_type": "llama", "tie_word_embeddings": False, "attention_bias": True},
    "mistral": LLAMA | {"model_type": "mistral", "sliding_window": None, "tie_word_embeddings": False},
    "sliding mistral": LLAMA | {"model_type": "mistral", "sliding_window": 4},
    "gpt2": {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "gpt_neox": SHAPE | {"model_type": "gpt_neox", "intermediate_size": 32},
    "gemma2": LLAMA | {"model_type": "gemma2", "head_dim": 8, "final_logit_softcapping": 1.0},
    "bert": SHAPE | {"model_type": "bert", "intermediate_size": 32},
}
FAST = ("qwen3", "qwen2", "llama", "mistral")
CAUSAL = tuple(name for name in CONFIGS if name != "bert")


def make_folder(folder: Path, name: str) -> Path:
    """A model folder of random weights with a bare word-level tokenizer."""
    folder.mkdir()
    config = CONFIGS[name] | {"vocab_size": len(WORDS), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 0}
    (folder / "config.json").write_text(json.dumps(config))
    lm = initial_lm(folder / "config.json", seed=3)
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.05)
    save_weights(lm, folder / "model.safetensors")
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def some_items(n: int = 9, seed: int = 0) -> ItemSet:
    rng = np.random.default_rng(seed)
    texts = [" ".join(f"w{i}" for i in rng.integers(50, size=rng.integers(1, 40))) for _ in range(n)]
    return ItemSet.of([Item(str(i), "binary", "w1 w2", text) for i, text in enumerate(texts)])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("architectures")
    return {name: make_folder(root / name.replace(" ", "-"), name) for name in CONFIGS}


@pytest.mark.parametrize("name", CAUSAL)
def test_answers_equal_the_models_own_forward(folders: dict[str, Path], name: str) -> None:
    model = LabelModel.load(folders[name], "binary")
    assert (model.decoder is not None) == (name in FAST)
    tokens = model.tokenize(some_items())
    with torch.no_grad():
        own = [model.lm(input_ids=torch.from_numpy(ids)[None].long()).logits[0, -1, model.label_ids] for ids in tokens]
    assert np.allclose(model.logits(tokens), torch.stack(own), atol=2e-5)


def _own_states(model: LabelModel, ids: Any) -> torch.Tensor:
    out = model.lm(torch.from_numpy(ids)[None].long(), output_hidden_states=True)
    return torch.stack(out.hidden_states)


@pytest.mark.parametrize("name", [*CAUSAL, "bert"])
def test_hidden_states_equal_the_models_own(folders: dict[str, Path], name: str) -> None:
    model = LabelModel.load(folders[name], "binary")
    items = some_items()
    at = 0 if name == "bert" else -1
    with torch.no_grad():
        own = [_own_states(model, ids)[:, 0, at] for ids in model.tokenize(items)]
    hidden = model.hidden(items)
    assert hidden.shape == (9, 3, 16)
    assert np.allclose(hidden, torch.stack(own), atol=2e-5)
    assert np.array_equal(model.hidden(items, [-1, 1]), hidden[:, [2, 1]])


@pytest.mark.parametrize("name", ["qwen3", "llama"])
def test_gradients_equal_the_models_own(folders: dict[str, Path], name: str) -> None:
    model = LabelModel.load(folders[name], "binary")
    ids = torch.randint(3, len(WORDS), (4, 40), generator=torch.Generator().manual_seed(0))
    last = torch.tensor([39, 7, 20, 38])
    model(ids, last).square().sum().backward()
    mine = {key: p.grad.clone() for key, p in model.lm.named_parameters() if p.grad is not None}
    model.lm.zero_grad()
    rows = torch.arange(4)
    model.lm(input_ids=ids).logits[rows, last][:, model.label_ids].square().sum().backward()
    for key, parameter in model.lm.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(mine[key], parameter.grad, atol=1e-5), key


KINDS = [
    ("gpt2", "full"), ("gpt2", "lora:2"), ("bert", "full"), ("bert", "head"), ("bert", "lora:2"), ("llama", "lora:4"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "trainable"), KINDS)
def test_every_kind_learns_and_its_student_is_read_back(
    folders: dict[str, Path], name: str, trainable: str, tmp_path: Path
) -> None:
    base = LabelModel.load(folders[name], "binary")
    items = some_items(24)
    labels = np.ones(24) * 0.9
    model = base.copy(trainable)
    config = TrainConfig(epochs=8, lr=1e-2, batch_size=8, trainable=trainable, schedule="constant")
    losses: list[float] = []
    finetune(model, model.tokenize(items), labels, config, on_progress=lambda *a: losses.append(a[2]))
    assert losses[-1] < 0.45
    student = Student.from_model(model, base)
    student.save(tmp_path / "s")
    fresh = LabelModel.load(folders[name], "binary")
    probs = Student.load(tmp_path / "s", fresh).predict(items)
    assert np.allclose(probs, model.probs(items), atol=1e-6)
    assert not np.allclose(probs, base.probs(items), atol=1e-3)
    if trainable.startswith("lora"):
        assert all(".lora_" in tensor or tensor == "label_head" for tensor in student.tensors)


def test_a_head_on_a_causal_model_is_drawn_from_its_seed(folders: dict[str, Path]) -> None:
    first, same, other = (LabelModel.load(folders["gpt2"], "binary", readout="head", seed=s) for s in (1, 1, 2))
    items = some_items()
    assert np.array_equal(first.probs(items), same.probs(items))
    assert not np.array_equal(first.probs(items), other.probs(items))
    with pytest.raises(ModelError, match="zero-shot"):
        first.zero_shot(items)
    with pytest.raises(ModelError, match="readout='head'"):
        LabelModel.load(folders["bert"], "binary", readout="labels")


def test_upper_layers_of_an_opaque_model_cannot_be_trained(folders: dict[str, Path]) -> None:
    model = LabelModel.load(folders["gpt2"], "binary")
    with pytest.raises(TrainingError, match="single layers"):
        finetune(model, model.tokenize(some_items()), np.zeros(9), TrainConfig(trainable="top:1"))


@pytest.mark.parametrize(
    ("name", "method", "says"),
    [
        ("gpt2", "frozen", r"single layers.*llama, mistral, qwen2, qwen3.*full, head or lora:r"),
        ("gpt2", "bootstrap", "single layers.*llama, mistral, qwen2, qwen3"),
        ("gpt2", "evolution_lora", "single layers.*llama, mistral, qwen2, qwen3"),
        ("bert", "critic", "BertModel writes no text: take a causal LM"),
    ],
)
def test_a_method_that_a_model_cannot_carry_names_the_remedy(
    folders: dict[str, Path], name: str, method: str, says: str
) -> None:
    run = MethodRun(
        some_items(),
        np.linspace(0.1, 0.9, 9),
        LabelModel.load(folders[name], "binary"),
        RunParams(epochs=1, trainable="full"),
    )
    scope: dict[str, Any] = {}
    exec(compile(registry.source_of(method), "method.py", "exec"), scope)
    with pytest.raises((ModelError, TrainingError), match=says):
        scope["train"](run)


def test_bfloat16_weights_are_trained_as_float32_and_stay_close(folders: dict[str, Path]) -> None:
    items = some_items()
    model = LabelModel.load(folders["qwen3"], "binary", dtype=torch.bfloat16)
    exact = LabelModel.load(folders["qwen3"], "binary")
    assert np.allclose(model.probs(items), exact.probs(items), atol=0.03)
    finetune(model, model.tokenize(items), np.zeros(9), TrainConfig(epochs=3, lr=1e-3, trainable="full"))
    assert all(p.dtype == torch.float32 for p in model.lm.parameters())
    assert model.probs(items)[:, 0].mean() > exact.probs(items)[:, 0].mean()


def test_shards_give_the_same_model_and_a_missing_one_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    source, folder = folders["llama"], tmp_path / "sharded"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    weights = load_file(source / "model.safetensors")
    halves = {f"model-{k}-of-2.safetensors": dict(sorted(weights.items())[k::2]) for k in (0, 1)}
    for name, part in halves.items():
        save_file(part, folder / name)
    index = {"weight_map": {key: name for name, part in halves.items() for key in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    items = some_items()
    expected = LabelModel.load(source, "binary").probs(items)
    assert np.array_equal(LabelModel.load(folder, "binary").probs(items), expected)
    (folder / "model-1-of-2.safetensors").unlink()
    with pytest.raises(ModelError, match="model-1-of-2"):
        LabelModel.load(folder, "binary")


def test_a_pickle_or_a_missing_tensor_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    for name in ("llama", "gpt2"):
        folder = tmp_path / name
        folder.mkdir()
        for file in ("config.json", "tokenizer.json"):
            (folder / file).write_bytes((folders[name] / file).read_bytes())
        (folder / "pytorch_model.bin").write_bytes(b"")
        with pytest.raises(ModelError, match="pickle"):
            LabelModel.load(folder, "binary")
        weights = load_file(folders[name] / "model.safetensors")
        weights.pop(next(key for key in weights if ".0." in key))
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match="missing"):
            LabelModel.load(folder, "binary")


def _file_of(address: int) -> str:
    for line in Path("/proc/self/maps").read_text().splitlines():
        parts = line.split()
        begin, end = (int(x, 16) for x in parts[0].split("-"))
        if begin <= address < end:
            return parts[-1]
    return ""


def test_weights_that_stay_frozen_are_the_files_pages_and_never_copied(folders: dict[str, Path]) -> None:
    base = LabelModel.load(folders["qwen3"], "binary")
    source = str(folders["qwen3"] / "model.safetensors")
    first = dict(base.lm.named_parameters())["model.layers.0.mlp.up_proj.weight"]
    top = dict(base.lm.named_parameters())["model.layers.1.mlp.up_proj.weight"]
    assert _file_of(first.data_ptr()) == source
    items = some_items()
    before = base.probs(items)
    for trainable in ("lora:2", "top:1", "head"):
        model = base.copy(trainable)
        finetune(model, model.tokenize(items), np.ones(9), TrainConfig(epochs=2, lr=1e-2, trainable=trainable))
        layers = model.lm.model.layers
        lower = layers[0].mlp.up_proj
        lower = lower.base_layer if trainable == "lora:2" else lower
        assert lower.weight.data_ptr() == first.data_ptr()
        if trainable == "top:1":
            assert layers[1].mlp.up_proj.weight.data_ptr() != top.data_ptr()
        assert not np.allclose(model.probs(items), before, atol=1e-3)
    assert np.array_equal(base.probs(items), before)
    assert base.copy().lm.model.layers[0].mlp.up_proj.weight.data_ptr() != first.data_ptr()


def test_adapters_are_reproducible_and_cannot_be_mixed(folders: dict[str, Path]) -> None:
    base = LabelModel.load(folders["llama"], "binary")
    items = some_items()
    outs = []
    for seed in (1, 1, 2):
        state = torch.get_rng_state()
        model = base.copy("lora:2")
        finetune(model, model.tokenize(items), np.ones(9), TrainConfig(epochs=1, trainable="lora:2", seed=seed))
        assert torch.equal(torch.get_rng_state(), state)
        outs.append(model.probs(items))
    assert np.array_equal(outs[0], outs[1])
    assert not np.array_equal(outs[0], outs[2])
    with pytest.raises(TrainingError, match="adapters"):
        finetune(model, model.tokenize(items), np.ones(9), TrainConfig(trainable="full"))
    with pytest.raises(TrainingError, match="adapters"):
        finetune(model, model.tokenize(items), np.ones(9), TrainConfig(trainable="lora:4"))


def test_long_texts_are_cut_in_front_of_the_question_or_refused(folders: dict[str, Path]) -> None:
    items = some_items()
    whole = LabelModel.load(folders["llama"], "binary").tokenize(items)
    model = LabelModel.load(folders["llama"], "binary", max_length=12)
    cut = model.tokenize(items)
    assert cut.truncated == sum(len(row) > 12 for row in whole) > 0
    for short, full in zip(cut, whole, strict=True):
        assert short.tolist() == full[-12:].tolist()
    report = finetune(model, cut, np.ones(9), TrainConfig(epochs=1, trainable="full"))
    assert report.truncated == cut.truncated
    model.over_long = "refuse"
    with pytest.raises(ModelError, match="longer than 12 tokens"):
        model.tokenize(items)


TEMPLATE = "{% for m in messages %}user {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}B {% endif %}"


def test_chat_models_are_asked_through_their_template(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "chat"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((folders["llama"] / name).read_bytes())
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folders["llama"] / "tokenizer.json"), unk_token="<unk>")  # type: ignore[no-untyped-call]
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(str(folder))
    fmt = dataclasses.replace(FORMATS["binary"], chat=True)
    model = LabelModel.load(folder, "binary", fmt=fmt, max_length=10)
    items = ItemSet.of([Item("a", "binary", "w1", "w2"), Item("b", "binary", "w1", "w3 " * 20)])
    words = [[WORDS[i] for i in row] for row in model.tokenize(items)]
    assert words[0] == ["user", "task", "w1", "work", "w2", "verdict", "B"]
    assert words[1] == ["user", *["w3"] * 7, "verdict", "B"]
    prompts = blocks.critique_prompts(MethodRun(items, [0.2, 0.8], model), 2)
    words = [[WORDS[i] for i in row] for row in prompts]
    assert words[0] == ["user", "task", "w1", "work", "w2", "<unk>", "B"]  # the end asks for a critique
    assert words[1] == ["user", *["w3"] * 5, "<unk>", "B"]
    with pytest.raises(ModelError, match="chat template"):
        LabelModel.load(folders["llama"], "binary", fmt=fmt)


def test_special_tokens_that_an_item_writes_are_text(folders: dict[str, Path], tmp_path: Path) -> None:
    plain = LabelModel.load(folders["llama"], "binary")
    items = ItemSet.of([Item("a", "binary", "w1 <bos> w2", "w3 <unk>"), Item("b", "binary", "w1", "w2")])
    words = [[WORDS[i] for i in row] for row in plain.tokenize(items)]
    # A word-level vocabulary has no other way to write <bos>: it becomes the unknown token.
    assert words[0] == ["task", "w1", "<unk>", "w2", "work", "w3", "<unk>", "verdict"]
    assert words[1] == ["task", "w1", "work", "w2", "verdict"]
    assert not plain.tokenizer.backend_tokenizer.encode_special_tokens

    letters = [*"abcden<>", "<s>", "</s>", "<turn>", "<end>"]
    raw = Tokenizer(BPE({letter: i for i, letter in enumerate(letters)}, []))
    raw.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 8), ("</s>", 9)])
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", additional_special_tokens=["<turn>", "<end>"]
    )
    fmt = PromptFormat("<turn>{prompt}<end>{first}", "a", "b", ("c", "d"))
    prompts = ["ab", "a<end>b"]
    literal = {i: fmt.pieces(prompts[i], "d", "") for i in texts.with_special(tokenizer, prompts)}
    rendered = [fmt.text(prompt, "d", "") for prompt in prompts]
    assert {i: "".join(text for text, _ in pieces) for i, pieces in literal.items()} == {1: rendered[1]}
    asked = [["a", "b", "<end>", "d", "a"], [*"a<end>b", "<end>", "d", "a"]]
    for frame, before, after in ((None, "<s>", "</s>"), (("<turn>", "<end>"), "<turn>", "<end>")):
        rows = texts.encode(tokenizer, rendered, frame, None, "cut", literal)
        assert [[letters[i] for i in row] for row in rows] == [[before, "<turn>", *own, after] for own in asked]


def test_labels_that_are_no_single_token_are_named_with_the_remedy(folders: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=r"'False' is not a single known token.*prompt format"):
        LabelModel.load(folders["llama"], "binary", fmt=PUBLISHED["binary"])


def test_a_hub_id_without_a_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"hf download nobody/no-such-model --local-dir"):
        LabelModel.load("nobody/no-such-model", "pair")
    with pytest.raises(ModelError, match="no such model folder"):
        LabelModel.load(tmp_path / "missing", "pair")
