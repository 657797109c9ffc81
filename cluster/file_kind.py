"""What a file is that was expected to be UTF-8 text and is not: its kind by its first bytes, and what to do with it."""

from __future__ import annotations

import codecs

HEAD = 512
"""Bytes that tell a kind."""
_UNPACK = "unpack it ({command}) and give the file that comes out"
_AS_TEXT = "save it as UTF-8 text"
_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "compressed with gzip", _UNPACK.format(command="gunzip")),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", _UNPACK.format(command="unzstd")),
    (b"\xfd7zXZ\x00", "compressed with xz", _UNPACK.format(command="unxz")),
    (b"BZh", "compressed with bzip2", _UNPACK.format(command="bunzip2")),
    (b"\x04\x22\x4d\x18", "compressed with lz4", _UNPACK.format(command="unlz4")),
    (b"PK\x03\x04", "a zip archive", _UNPACK.format(command="unzip")),
    (b"PK\x05\x06", "an empty zip archive", "give the file that was meant"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK.format(command="7z x")),
    (b"PAR1", "a Parquet file", "export its rows as JSON lines"),
    (b"ARROW1", "an Arrow file", "export its rows as JSON lines"),
    (b"\x89HDF\r\n", "an HDF5 file", "export its rows as JSON lines"),
    (b"\x93NUMPY", "a NumPy array", "export its rows as JSON lines"),
    (b"SQLite format 3\x00", "an SQLite database", "export its rows as JSON lines"),
    (b"%PDF-", "a PDF", _AS_TEXT),
    (b"\x7fELF", "a compiled program", "give its source"),
    (b"\x80\x02", "a Python pickle", _AS_TEXT),
    (b"\x80\x03", "a Python pickle", _AS_TEXT),
    (b"\x80\x04", "a Python pickle", _AS_TEXT),
    (b"\x80\x05", "a Python pickle", _AS_TEXT),
)
_MARKS: tuple[tuple[bytes, str], ...] = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def known_kind(data: bytes) -> str | None:
    """`compressed with gzip: unpack it (gunzip) ...` of a file that begins with `data`; `None` for what may be text."""
    for magic, kind, remedy in _KINDS:
        if data.startswith(magic) and not _is_text(data):
            return f"{kind}: {remedy}"
    if data[257:262] == b"ustar":
        return f"a tar archive: {_UNPACK.format(command='tar xf')}"
    for mark, name in _MARKS:
        if data.startswith(mark):
            return f"text in {name}: save it as UTF-8 (iconv -f {name} -t UTF-8)"
    even, odd = data[:HEAD:2], data[1:HEAD:2]
    if len(data) >= 4 and (even.count(0) > 0.4 * len(even) or odd.count(0) > 0.4 * len(odd)):
        big = even.count(0) > odd.count(0)
        if not (even.count(0) and odd.count(0)) or abs(even.count(0) - odd.count(0)) > 0.3 * len(even):
            return f"text in UTF-16 without a mark: save it as UTF-8 (iconv -f UTF-16{'BE' if big else 'LE'} -t UTF-8)"
    return None


def why_not_text(data: bytes, error: UnicodeDecodeError | None = None) -> str:
    """Why `data` is no UTF-8 text, and what to do: its kind where that is known, else the place of the fault."""
    kind = known_kind(data)
    if kind is not None:
        return kind
    if error is None:
        return f"not text: {_AS_TEXT}"
    line = data.count(b"\n", 0, error.start) + 1
    return f"not UTF-8 (byte {error.start + 1}, in line {line}): {_AS_TEXT}"


def _is_text(data: bytes) -> bool:
    """Whether a beginning that looks like a kind's is that of a text: `BZh` and `PAR1` are letters, too."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data[:HEAD])
    except UnicodeDecodeError:
        return False
    return b"\0" not in data[:HEAD]
