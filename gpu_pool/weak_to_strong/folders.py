"""Model folders on disk: where they are, which files are theirs, what names their content. Needs no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from gpu_pool.weak_to_strong.errors import ModelError
from gpu_pool.weak_to_strong.formats import FORMATS, PUBLISHED, PromptFormat
from gpu_pool.weak_to_strong.items import Kind

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PROMPT = "prompt.json"
EXPECTED = f"expected a folder with config.json, {WEIGHTS} and tokenizer.json, or OWNER/NAME of the Hugging Face hub"
_CONTENT = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")


def resolve(folder_or_id: str | Path) -> Path:
    """The local folder of a model; a hub id (`owner/name`) is downloaded into Hugging Face's cache.

    Raises ModelError with the remedy when there is no such folder and the hub cannot give it.
    """
    folder = Path(folder_or_id)
    if folder.is_dir():
        return folder
    name = str(folder_or_id)
    if isinstance(folder_or_id, Path) or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelError(f"{name}: no such model folder: {EXPECTED}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(_CONTENT)))
    except Exception as error:  # the hub's client has an error of its own for every layer below it
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{name} is no folder here and the Hugging Face hub does not give it ({first}): where there is a network, "
            f"run `hf download {name} --local-dir DIR`, copy DIR to this machine and give its path"
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, the shards of its index included; ModelError names what is missing."""
    if (folder / INDEX).is_file():
        try:
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            names = sorted(set(index["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{folder / INDEX}: not an index of shards: {error}") from error
    else:
        names = [WEIGHTS]
    files = [folder / Path(name).name for name in names]
    for file in files:
        if not file.is_file():
            other = sorted(path.name for path in folder.glob("*.bin"))
            hint = f"; {other[0]} is a pickle, which is never loaded: convert it to safetensors" if other else ""
            raise ModelError(f"model folder {folder} has no {file.name}{hint}: {EXPECTED}")
    return files


def prompt_format(folder: Path, kind: Kind) -> PromptFormat:
    """How a folder's model is asked about items of `kind`.

    As its `prompt.json` says; else in the published plain texts where the folder has a full Hugging Face tokenizer,
    else in those of `FORMATS`. Raises ItemError for a malformed `prompt.json`.
    """
    if (folder / PROMPT).is_file():
        return PromptFormat.load(folder / PROMPT)
    return PUBLISHED[kind] if (folder / "tokenizer_config.json").is_file() else FORMATS[kind]


def content_files(folder: Path) -> list[Path]:
    """Every file that loading a model may read, in the order of their names."""
    return sorted({path for pattern in _CONTENT for path in folder.glob(pattern)})


def files_without_weights(folder: Path) -> list[Path]:
    """The configuration, the tokenizer and the texts of a model: what another model of its kind has, too."""
    return [path for path in content_files(folder) if path.suffix != ".safetensors" and path.name != INDEX]


def content_digests(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Name and blake2b digest of each of `content_files`: about a second for a gigabyte."""
    for path in content_files(folder):
        with path.open("rb") as file:
            yield path.name, hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
