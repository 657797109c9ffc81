"""A folder with a random tiny Qwen3 and a real tokenizer: byte-level BPE, end tokens, a chat template with tools."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% if tools %}<|im_start|>system\n# Tools\n<tools>{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}</tools>"
    "<|im_end|>\n{% endif %}{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = (
    "A weak teacher labels every item and a strong student learns from the labels.",
    "Which answer is better? The first answer, A, or the second answer, B? The better answer is B.",
    "The critique says that the claim is wrong, since two and two are four and not five. Verdict: True or False?",
    'A tool call is JSON, such as {"name": "read", "arguments": {"path": "notes.md"}} between two marks.',
)


def make_tiny_qwen(folder: Path, hidden: int = 64, layers: int = 2, context: int = 2048) -> Path:
    """Write the folder; weights are drawn wide, so that the next token is not a matter of rounding."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = Tokenizer(BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(TEXT * 4, BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False))
    raw.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    names = {"eos_token": SPECIAL[2], "pad_token": SPECIAL[0], "chat_template": TEMPLATE}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, **names)  # type: ignore[no-untyped-call]
    tokenizer.save_pretrained(str(folder))
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    lm = Qwen3ForCausalLM(config)  # type: ignore[no-untyped-call]
    lm.save_pretrained(str(folder))
    for path in folder.iterdir():
        path.chmod(0o644)
    return folder
