"""Token tables that are computed once: of the same items, format and tokenizer the ids are read from a file's pages."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpu_pool.weak_to_strong.items import ItemSet
from gpu_pool.weak_to_strong.tasks.artefacts import JSON, Artefacts, canonical, code_version
from gpu_pool.weak_to_strong.tokens import TokenTable

if TYPE_CHECKING:
    from gpu_pool.weak_to_strong.models import LabelModel

_FILE = "tokens.arrow"


def token_table(artefacts: Artefacts, model: LabelModel, items: ItemSet, *, prior: bool = False) -> TokenTable:
    """`model.tokenize(items, prior=prior)`, memory-mapped, computed only when no model with an equal tokenizer has.

    Raises ModelError as `tokenize` does.
    """

    def make(folder: Path) -> None:
        model.tokenize(items, prior=prior).save(folder / _FILE)

    # What `tokenize` refuses is refused also when the table is there: the kind and the setting are in the key.
    key: dict[str, JSON] = {
        "items": items.content_hash(),
        "kind": model.kind,
        "text": text_version(model),
        "prior": prior,
        "max_length": model.max_length,
        "over_long": model.over_long,
        "code": code_version(*(f"gpu_pool.weak_to_strong.{name}" for name in ("formats", "models.texts", "tokens"))),
    }
    return TokenTable.load(artefacts.folder("tokens", key, make) / _FILE)


def text_version(model: LabelModel) -> str:
    """sha256, in hexadecimal, over the model's text format, its tokenizer and, where it is used, the chat template."""
    fmt: dict[str, Any] = asdict(model.fmt)
    digest = hashlib.sha256(canonical(fmt).encode())
    tokenizer = model.tokenizer
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is not None:
        digest.update(fast.to_str().encode())
    else:
        settings = {"class": type(tokenizer).__name__, "config": repr(tokenizer), "words": tokenizer.get_vocab()}
        digest.update(canonical(settings).encode())
    if model.fmt.chat:
        digest.update(str(tokenizer.chat_template).encode())
    return digest.hexdigest()
