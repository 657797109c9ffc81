"""Tokenizers: loading them, the label tokens, chat templates, texts that are longer than the model's context."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from gpu_pool.weak_to_strong.errors import ModelError
from gpu_pool.weak_to_strong.tokens import TokenTable

OverLong = Literal["cut", "refuse"]
_SPECIAL = {"pad_token": "<pad>", "bos_token": "<bos>", "unk_token": "<unk>"}
_MARK = "\u2402text\u2403"  # stands for the text while the chat template is filled in


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder: all of Hugging Face's files, or `tokenizer.json` alone.

    Raises ModelError when there is none or it cannot be read.
    """
    bare = folder / "tokenizer.json"
    try:
        if any((folder / name).is_file() for name in ("tokenizer_config.json", "vocab.txt", "vocab.json")):
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            if getattr(tokenizer, "backend_tokenizer", None) is not None:
                tokenizer.backend_tokenizer.no_padding()
                tokenizer.backend_tokenizer.no_truncation()
            return tokenizer
        if not bare.is_file():
            raise ModelError(f"model folder {folder} has no tokenizer.json")
        raw = Tokenizer.from_file(str(bare))
        raw.no_padding()
        raw.no_truncation()
        special = {name: token for name, token in _SPECIAL.items() if raw.token_to_id(token) is not None}
        return PreTrainedTokenizerFast(tokenizer_object=raw, **special)  # type: ignore[no-untyped-call]
    except ModelError:
        raise
    except Exception as error:  # the Rust tokenizer raises bare Exception
        raise ModelError(f"the tokenizer of {folder} cannot be read: {error}") from error


def single_token(tokenizer: Any, label: str) -> int:
    """The id of a label; raises ModelError when the tokenizer needs several tokens for it or does not know it."""
    ids = [int(i) for i in tokenizer(label, add_special_tokens=False)["input_ids"]]
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        pieces = tokenizer.convert_ids_to_tokens(ids)
        raise ModelError(
            f"label {label!r} is not a single known token of the tokenizer (it becomes {pieces}): "
            "choose labels that are, in the prompt format (prompt.json), or use a classification head"
        )
    return ids[0]


def chat_frame(tokenizer: Any) -> tuple[str, str]:
    """What the chat template puts before and after a user's text, up to the start of the assistant's turn."""
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError("the prompt format asks for a chat template and the tokenizer has none: use chat=False")
    turn = [{"role": "user", "content": _MARK}]
    rendered = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    before, mark, after = rendered.partition(_MARK)
    if not mark:
        raise ModelError("the tokenizer's chat template does not show the user's text")
    return before, after


def encode(
    tokenizer: Any, texts: Sequence[str], frame: tuple[str, str] | None, limit: int | None, over_long: OverLong
) -> TokenTable:
    """Token ids of each text; `frame` is what goes around it instead of the tokenizer's own special tokens.

    A text of more than `limit` tokens loses tokens behind its first ones (special tokens, chat frame), so that the
    question at its end survives; with `refuse`, ModelError says which and how long.
    """
    head = 0
    if frame is not None:
        texts = [frame[0] + text + frame[1] for text in texts]
        head = len(tokenizer(frame[0], add_special_tokens=False)["input_ids"])
    rows = _ids(tokenizer, texts, special=frame is None)
    if frame is None:
        empty = tokenizer("")["input_ids"]
        head = 1 if empty and rows and all(len(row) and row[0] == empty[0] for row in rows) else 0
    long = [i for i, row in enumerate(rows) if limit is not None and len(row) > limit]
    if long and limit is not None:
        if over_long == "refuse" or limit <= head:
            worst = max(long, key=lambda i: len(rows[i]))
            raise ModelError(
                f"{len(long)} of {len(rows)} texts are longer than {limit} tokens (text {worst}: {len(rows[worst])}): "
                "raise max_length, shorten them, or load the model with over_long='cut'"
            )
        for i in long:
            rows[i] = [*rows[i][:head], *rows[i][head - limit :]] if head else rows[i][-limit:]
    if any(len(row) == 0 for row in rows):
        raise ModelError("a text has no token at all")
    return TokenTable.of([np.array(row, dtype=np.int32) for row in rows], truncated=len(long))


def _ids(tokenizer: Any, texts: Sequence[str], *, special: bool) -> list[list[int]]:
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is not None and special:
        return [row.ids for row in fast.encode_batch_fast(list(texts))]
    return [list(row) for row in tokenizer(list(texts), add_special_tokens=special)["input_ids"]] if texts else []
