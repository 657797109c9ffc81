"""The campaign's secret and everything that is drawn from it.

One 32-byte key, made once from the operating system's entropy, in a file that only its owner can read. Every draw is
HMAC-SHA256(key, msgpack(parts)): the same parts give the same draw after a restart, and nobody without the key can
predict one, or tell one from another. The key's commitment is published when the campaign starts; whoever gets the key
afterwards can draw all pools again and check that they were never exchanged.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import tempfile
from pathlib import Path

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from scipy import stats

from cluster.errors import AarError
from cluster.wire import pack

KEY_BYTES = 32
_NONCE_BYTES = 12


class SecretError(AarError):
    """The secret file is damaged, or something was sealed with another secret."""


class Secret:
    """A key and its draws. Its text never shows the key."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise SecretError(f"a secret has {KEY_BYTES} bytes, found {len(key)}")
        self._key = key

    def __repr__(self) -> str:
        return "Secret(...)"

    @classmethod
    def load_or_create(cls, path: Path) -> Secret:
        """The secret in `path`, mode 0600, made at the first call. Raises `SecretError` when the file is damaged."""
        if not path.exists():
            write_private(path, os.urandom(KEY_BYTES))
        return cls(path.read_bytes())

    def draw(self, *parts: str | int) -> bytes:
        """32 bytes for `parts`."""
        return hmac.new(self._key, pack(list(parts)), hashlib.sha256).digest()

    def seed(self, *parts: str | int) -> int:
        """A training seed, 0 to 2^31 - 1."""
        return int.from_bytes(self.draw("seed", *parts), "big") % 2**31

    def generator(self, *parts: str | int) -> np.random.Generator:
        """A random generator of its own for `parts`."""
        return np.random.default_rng(int.from_bytes(self.draw("generator", *parts), "big"))

    def normal(self, *parts: str | int) -> float:
        """A standard normal number."""
        uniform = (int.from_bytes(self.draw("normal", *parts)[:6], "big") + 0.5) / 2**48
        return float(stats.norm.ppf(uniform))

    def revealed(self) -> str:
        """The key itself, 64 hexadecimal digits: for a campaign that has ended."""
        return self._key.hex()

    def commitment(self) -> str:
        """A hash that binds to the key without revealing it."""
        return hashlib.sha256(b"commitment" + self._key).hexdigest()

    def seal(self, name: str, data: bytes) -> bytes:
        """`data` encrypted and bound to `name`, for what is as good as truth and must outlive the process."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher().encrypt(nonce, data, name.encode())

    def unseal(self, name: str, sealed: bytes) -> bytes:
        """What `seal` hid under the same name. Raises `SecretError`."""
        try:
            return self._cipher().decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], name.encode())
        except (InvalidTag, ValueError) as error:
            raise SecretError(f"{name} was sealed with another secret, or is damaged") from error

    def _cipher(self) -> ChaCha20Poly1305:
        return ChaCha20Poly1305(self.draw("cipher"))


def write_private(path: Path, data: bytes) -> None:
    """Write `path` with mode 0600 in one step: it is there in full or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd, temporary = tempfile.mkstemp(dir=path.parent)  # mkstemp gives mode 0600
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    Path(temporary).rename(path)
