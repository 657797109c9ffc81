"""Text of strangers: how lines are counted, what a terminal gets, what a file is that was to be text."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import lzma
import pickle
import subprocess
import sys
import unicodedata
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from cluster.config import ConfigError, load_config
from cluster.file_kind import known_kind, why_not_text
from cluster.terminal import cell, show
from cluster.text import escaped_json, lines, lines_with_ends, visible, visible_line

SEPARATORS = "\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
ROOT = Path(__file__).parents[3]
ANY = st.text(st.characters(), max_size=60) | st.text(f"ab\n{SEPARATORS}", max_size=60)


@given(ANY)
def test_lines_are_counted_by_line_feeds_alone(text: str) -> None:
    assert len(lines(text)) == text.count("\n") + (text != "" and not text.endswith("\n"))
    assert "".join(lines_with_ends(text)) == text
    assert [line.removesuffix("\n") for line in lines_with_ends(text)] == lines(text)


@given(ANY)
def test_nothing_that_is_shown_can_steer_a_terminal(text: str) -> None:
    for shown, kept in ((visible(text), "\n\t"), (visible_line(text), "")):
        assert all(
            c in kept or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") for c in shown
        )
        shown.encode("utf-8")
    assert visible(visible(text)) == visible(text)


@given(st.dictionaries(ANY, ANY | st.integers() | st.lists(ANY, max_size=3), max_size=4))
def test_escaped_json_is_read_back_as_it_was(value: dict[str, object]) -> None:
    assert json.loads(escaped_json(value)) == value


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;owned\x07", "\\u001b[2J\\u001b]0;owned\\u0007"),
        ("\x9b31m", "\\u009b31m"),
        ("a\u202eb\u2066c", "a\\u202eb\\u2066c"),
        ("ok\rFAIL", "ok\\u000dFAIL"),
        ("tag\U000e0041", "tag\\udb40\\udc41"),
        ("käml, 数学, שלום", "käml, 数学, שלום"),
    ],
)
def test_what_moves_or_reorders_is_escaped_and_letters_stay(text: str, shown: str) -> None:
    assert visible_line(text) == shown


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.jsonl", "{}")
    return buffer.getvalue()


ROWS = '{"question": "é", "label": 1}\n' * 20
FILES = {
    "gzip": gzip.compress(ROWS.encode()),
    "xz": lzma.compress(ROWS.encode()),
    "bzip2": bz2.compress(ROWS.encode()),
    "zstd": b"\x28\xb5\x2f\xfd\x04\x00\xff",
    "zip": _zip(),
    "Parquet": b"PAR1\x15\x04\x15\xff",
    "pickle": pickle.dumps({"a": 1}),
    "UTF-16": ROWS.encode("utf-16"),
    "UTF-16LE": ROWS.encode("utf-16-le"),
    "UTF-16BE": ROWS.encode("utf-16-be"),
    "UTF-32": codecs.BOM_UTF32_LE + ROWS.encode("utf-32-le"),
}


@pytest.mark.parametrize(("word", "data"), FILES.items(), ids=FILES)
def test_a_file_that_is_no_text_is_called_what_it_is(word: str, data: bytes, tmp_path: Path) -> None:
    kind = known_kind(data)
    assert kind is not None
    assert word in kind
    (tmp_path / "my.yaml").write_bytes(data)
    with pytest.raises(ConfigError, match=word) as refused:
        load_config(file=tmp_path / "my.yaml")
    assert "codec" not in str(refused.value)


@pytest.mark.parametrize("data", [b"", b"BZh is how it begins", b"PAR1", ROWS.encode(), b"\xef\xbb\xbfx", b"a\0b"])
def test_text_is_taken_for_no_other_kind(data: bytes) -> None:
    assert known_kind(data) is None


def test_text_in_another_code_names_the_line() -> None:
    data = b"one\ntwo caf\xe9\n"
    with pytest.raises(UnicodeDecodeError) as fault:
        data.decode("utf-8")
    assert "line 2" in why_not_text(data, fault.value)


def test_a_table_in_a_pipe_is_whole_and_takes_no_markup() -> None:
    table, out = Table(box=None), io.StringIO()
    for _ in range(12):
        table.add_column("a long heading", overflow="fold")
    table.add_row(*(cell(f"[/bold]\x1b[31m value {n} " + "x" * 40) for n in range(12)))
    show(table, out)
    shown = out.getvalue()
    assert shown.count("a long heading") == 12
    assert all(f"[/bold]\\u001b[31m value {n} " in shown for n in range(12))
    assert "\x1b" not in shown


TALKER = """
import sys
from cluster.terminal import run_script

def main(argv):
    for number in range(20_000):
        print("line", number, "\\udcff")
        print("complaint", number, file=sys.stderr)
    return int(argv[0])

sys.exit(run_script(main))
"""


@pytest.mark.parametrize("status", [0, 1, 3])
@pytest.mark.parametrize("both", ["", "2>&1 "])
def test_a_reader_who_leaves_is_no_error_and_the_status_stays(status: int, both: str) -> None:
    line = f'"$0" -c "$1" {status} {both}| head -1; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(
        ["bash", "-c", line, sys.executable, TALKER], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[-2] == str(status)
    assert "Traceback" not in done.stdout + done.stderr
    assert "BrokenPipe" not in done.stderr


def test_every_script_begins_where_a_reader_may_leave() -> None:
    begun = [path for path in (ROOT / "scripts").rglob("*.py") if "__main__" in path.read_text(encoding="utf-8")]
    assert len(begun) > 15
    assert [path.name for path in begun if "sys.exit(run_script(" not in path.read_text(encoding="utf-8")] == []
