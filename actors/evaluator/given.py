"""Models that the configuration gives, by folder or hub id, in the node cache that sandboxes see read-only.

An entry of the cache is named by the content of all its files, the prompt format among them, which says how the model
is asked and where texts are cut. What a campaign began with is pinned in its result store: another content under the
same name is refused. Files from the hub's own cache are linked where that can be done, because they never change; those
of a folder are copied.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from pathlib import Path

from actors.evaluator.file_domain import FileDomain
from actors.evaluator.lease_client import Joiner, WorkError
from actors.evaluator.models import Which
from actors.evaluator.result_store import ResultStore, Usage
from gpu_pool.cache import NodeCache
from gpu_pool.staging import link_or_copy
from gpu_pool.weak_to_strong.folders import PROMPT, content_digests, content_files, prompt_format, resolve
from gpu_pool.weak_to_strong.formats import PUBLISHED_LENGTH, PUBLISHED_MODELS, PromptFormat

_OPEN = 0o644


class GivenModels:
    """The two models of a task from files."""

    def __init__(self, domain: FileDomain, cache: NodeCache, result_store: ResultStore) -> None:
        self._domain, self._cache, self._results = domain, cache, result_store
        self._join = Joiner()

    def folder(self, which: Which) -> Path:
        """Where the model lies; only after `model`."""
        body = self._results.get(self._key(which))
        assert body is not None, "a model is fetched before it is used"
        return self._cache.entry(body["entry"])

    async def model(self, which: Which) -> Path:
        """The model's folder in the cache. Raises `ModelError` with the remedy, `WorkError` when it has changed."""
        return await self._join.once(which, lambda: self._model(which))

    def _key(self, which: Which) -> str:
        return f"model/{self._domain.name}/{which}"

    async def _model(self, which: Which) -> Path:
        known = self._results.get(self._key(which))
        if known is None or not self._cache.has(known["entry"]):
            entry = await asyncio.to_thread(self._fetch, which)
            if known is not None and known["entry"] != entry:
                raise WorkError(
                    f"the {which} model of {self._domain.name}, {source(self._domain, which)}, is not the one that "
                    f"this campaign began with ({entry}, then {known['entry']}): put the old one back"
                )
            body = {"entry": entry, "source": source(self._domain, which), **Usage((), 0, "A", "").to_dict()}
            self._results.put(self._key(which), body, body)
        return self.folder(which)

    def _fetch(self, which: Which) -> str:
        where = source(self._domain, which)
        folder = resolve(where)
        return install(folder, asked(self._domain, which, folder), self._cache, lasting=not Path(where).is_dir())


def source(domain: FileDomain, which: Which) -> str:
    """The folder or hub id of a model, as the configuration has it."""
    return domain.about.weak if which == "weak" else domain.about.strong


def asked(domain: FileDomain, which: Which, folder: Path) -> PromptFormat:
    """How a model is asked: in the task's own texts or else the model's, by chat and to a length as configured."""
    where, about = source(domain, which), domain.about
    texts = domain.task.fmt or prompt_format(folder, domain.kind)
    chat = about.weak_chat if which == "weak" else about.strong_chat
    limit = about.max_length or (PUBLISHED_LENGTH if where in PUBLISHED_MODELS else texts.max_length)
    return replace(texts, chat=PUBLISHED_MODELS.get(where, texts.chat) if chat is None else chat, max_length=limit)


def install(folder: Path, fmt: PromptFormat, cache: NodeCache, *, lasting: bool) -> str:
    """Put a model folder with this format into the cache; the entry's name. `lasting`: its files never change."""
    digest = hashlib.blake2b(repr(fmt).encode(), digest_size=16)
    for name, content in content_digests(folder):
        if name != PROMPT:
            digest.update(name.encode() + b"\0" + content)
    entry = f"given-{digest.hexdigest()}"
    if not cache.has(entry):
        with cache.building(entry) as target:
            for path in content_files(folder):
                if path.name != PROMPT:
                    real = path.resolve()
                    open_to_all = real.stat().st_mode & 0o777 == _OPEN
                    link_or_copy(real, target / path.name, link=lasting and open_to_all)
            fmt.save(target / PROMPT)
    return entry
