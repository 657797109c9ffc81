"""Tokenizers: loading them, the label tokens, chat templates, texts that are longer than the model's context."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from gpu_pool.weak_to_strong.errors import ModelError
from gpu_pool.weak_to_strong.formats import Piece
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


def with_special(tokenizer: Any, *columns: Sequence[str]) -> list[int]:
    """The rows of `columns` in which one of the tokenizer's special tokens is written out."""
    pattern = _pattern(_special(tokenizer))
    return [i for i, row in enumerate(zip(*columns, strict=True)) if any(pattern.search(text) for text in row)]


def encode(
    tokenizer: Any,
    texts: Sequence[str],
    frame: tuple[str, str] | None,
    limit: int | None,
    over_long: OverLong,
    literal: Mapping[int, Sequence[Piece]] | None = None,
) -> TokenTable:
    """Token ids of each text; `frame` is what goes around it instead of the tokenizer's own special tokens.

    `literal` has the pieces of those texts of which an item wrote special tokens (`with_special`): there they are
    ordinary text, or the unknown token where the tokenizer has no other way to write them.

    A text of more than `limit` tokens loses tokens behind its first ones (special tokens, chat frame), so that the
    question at its end survives; with `refuse`, ModelError says which and how long.
    """
    head = 0
    if frame is not None:
        texts = [frame[0] + text + frame[1] for text in texts]
        head = len(tokenizer(frame[0], add_special_tokens=False)["input_ids"])
    rows = _ids(tokenizer, texts, special=frame is None)
    for i, pieces in (literal or {}).items():
        rows[i] = _literal_ids(tokenizer, pieces, frame)
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
    return TokenTable.of([np.array(row, dtype=np.int32) for row in rows], cut=np.isin(np.arange(len(rows)), long))


def _ids(tokenizer: Any, texts: Sequence[str], *, special: bool) -> list[list[int]]:
    """Ids of texts in which special tokens are what they say."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is not None and special:
        return [row.ids for row in fast.encode_batch_fast(list(texts))]
    return [list(row) for row in tokenizer(list(texts), add_special_tokens=special)["input_ids"]] if texts else []


def _literal_ids(tokenizer: Any, pieces: Sequence[Piece], frame: tuple[str, str] | None) -> list[int]:
    """Ids of a text in which only what no item wrote may be a special token."""
    special = _special(tokenizer)
    parts: list[str | int] = [""]
    whole = pieces if frame is None else [(frame[0], False), *pieces, (frame[1], False)]
    for text, is_item in whole:
        owned = [] if is_item else list(_pattern(special).finditer(text))
        at = 0
        for match in owned:
            parts[-1] = f"{parts[-1]}{text[at : match.start()]}"
            parts += [special[match[0]], ""]
            at = match.end()
        parts[-1] = f"{parts[-1]}{text[at:]}"
    ids: list[int] = []
    for part in parts:
        ids += [part] if isinstance(part, int) else _ordinary_ids(tokenizer, part, special)
    return ids if frame is not None else _surrounded(tokenizer, ids)


def _ordinary_ids(tokenizer: Any, text: str, special: Mapping[str, int]) -> list[int]:
    """Ids of a text that holds no special token, whatever it says."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        ids = list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])
    else:
        fast.encode_special_tokens = True
        try:
            ids = fast.encode(text, add_special_tokens=False).ids
        finally:
            fast.encode_special_tokens = False
    unknown = tokenizer.unk_token_id
    known = {name: token for name, token in special.items() if token != unknown and token in ids}
    if known and unknown is None:
        raise ModelError(f"an item holds {min(known)!r}, which this tokenizer cannot read as text: take it out")
    return [unknown if token in known.values() else token for token in ids]


def _surrounded(tokenizer: Any, ids: list[int]) -> list[int]:
    """`ids` with what the tokenizer puts before and after a text."""
    plain, whole = (_ids(tokenizer, ["a"], special=special)[0] for special in (False, True))
    before = next(at for at in range(len(whole) + 1) if whole[at : at + len(plain)] == plain)
    return [*whole[:before], *ids, *whole[before + len(plain) :]]


def _special(tokenizer: Any) -> dict[str, int]:
    """The tokenizer's special tokens with their ids."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        return dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    return {token.content: id_ for id_, token in fast.get_added_tokens_decoder().items() if token.special}


def _pattern(special: Mapping[str, int]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(name) for name in sorted(special, key=len, reverse=True)) or "(?!)")
