"""The words of a world and its byte-level tokenizer.

A piece is a word with the blank, comma or newline in front of it, so that text is the plain concatenation of pieces and
decoding gives it back exactly. Every piece of the world is one token, above all the words that carry the truth; any
other text falls back to its bytes, so nothing is ever unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as Chain
from tokenizers.processors import TemplateProcessing

from gpu_pool.weak_to_strong.domains.base import BOS, NOTHING, SPECIAL, UNK, IntArray
from gpu_pool.weak_to_strong.errors import W2SError

_BYTES = ByteLevel(add_prefix_space=False, use_regex=False)
_ALPHABET = tuple(sorted(ByteLevel.alphabet()))  # the 256 characters that stand for bytes
_REST = r"[\s\S]"  # whatever no other pattern takes goes byte by byte


class Lexicon:
    """Pieces with their token ids: specials, 256 bytes, then `pieces` in order.

    `patterns` are regular expressions, tried in order at each place of a text, that find the pieces in it; W2SError
    when they don't find a piece whole.
    """

    def __init__(self, pieces: Iterable[str], patterns: Sequence[str]) -> None:
        self.pieces: tuple[str, ...] = tuple(dict.fromkeys(pieces))
        words = (*SPECIAL, *_ALPHABET, *(w for p in self.pieces if (w := _bytes(p)) not in _ALPHABET))
        self._id = {word: i for i, word in enumerate(words)}
        self._patterns = "|".join((*patterns, _REST))
        self._tokenizer = self.tokenizer()
        split = [len(row.ids) for row in self._tokenizer.encode_batch(list(self.pieces), add_special_tokens=False)]
        broken = [piece for piece, count in zip(self.pieces, split, strict=True) if count != 1]
        if broken:
            raise W2SError(f"pieces are not single tokens: {broken[:3]}")

    def __len__(self) -> int:
        return len(self._id)

    def id(self, piece: str) -> int:
        """The token of a piece; KeyError when the world has no such piece."""
        return self._id[_bytes(piece)]

    def ids(self, pieces: Iterable[str]) -> IntArray:
        """Tokens of several pieces (n,)."""
        return np.array([self.id(piece) for piece in pieces], dtype=np.int64)

    def digits(self, values: IntArray, width: int) -> IntArray:
        """Decimal digits (n, width) of values (n,) of at least 0, left-aligned, empty cells behind them."""
        power = 10 ** np.arange(width - 1, -1, -1)
        figures = np.where(values[:, None] >= power, values[:, None] // power % 10, NOTHING)
        figures[:, -1] = values % 10
        table = np.append(self.ids("0123456789"), NOTHING)  # the last one answers to index -1
        return np.asarray(table[np.take_along_axis(figures, (figures == NOTHING).argsort(axis=1, kind="stable"), 1)])

    def texts(self, rows: IntArray) -> tuple[str, ...]:
        """The text of each row of tokens (n, w), empty cells left out, without blanks around it."""
        kept = [[token for token in row if token != NOTHING] for row in rows.tolist()]
        return tuple(text.strip() for text in self._tokenizer.decode_batch(kept))

    def tokenizer(self) -> Tokenizer:
        """A byte-level BPE without merges that puts BOS in front: a known piece is one token, the rest is bytes."""
        tokenizer = Tokenizer(BPE(self._id, [], unk_token=SPECIAL[UNK], ignore_merges=True))
        tokenizer.pre_tokenizer = Chain([Split(Regex(self._patterns), "isolated"), _BYTES])
        tokenizer.decoder = ByteDecoder()
        tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
        return tokenizer


def _bytes(piece: str) -> str:
    """A piece in the alphabet of the byte-level tokenizer."""
    return "".join(part for part, _ in _BYTES.pre_tokenize_str(piece))
