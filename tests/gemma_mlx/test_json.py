"""JSON that others wrote: read as it is, or refused with the file and the place."""

import json
import os
from pathlib import Path

import pytest

from gemma_mlx.errors import RequestError, UserError
from gemma_mlx.system import files
from gemma_mlx.system.files import parse_json, read_json, write_json


@pytest.mark.parametrize(
    "content",
    [{}, [], None, "é 👩 \\ud800", {"a": [1, -2.5, True, {"b": None}]}, 10**299, {"a": 1, "b": 1}],
)
def test_what_is_written_is_read(tmp_path: Path, content: object) -> None:
    write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json") == content
    for text in (json.dumps(content), json.dumps(content, ensure_ascii=False)):
        assert parse_json(text, "x") == content


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}", encoding="utf-8-sig")
    assert read_json(tmp_path / "x.json") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON: Expecting value (line 1, column 1)"),
        ('{\n "a": }', "not valid JSON: Expecting value (line 2, column 7)"),
        ('{"a": {"b": 1, "c": 2, "b": 1}}', "the key 'b' occurs twice in one object"),
        ("1" * 301, "an integer of 301 digits"),
        (f"[-{'1' * 5000}]", "an integer of 5001 digits"),
        ("[" * 100_000, "nested too deeply"),
        ('"\\ud83d"', "half a surrogate pair at the top"),
        ('{"a": ["x", {"b": "\\uDE42\\ud83d"}]}', "half a surrogate pair at a/1/b"),
        ('{"a": {"\\udc00": 1}}', r"half a surrogate pair at a/\udc00"),
        ('["\ud800"]', "half a surrogate pair at 0"),
    ],
)
def test_what_cannot_be_read_is_named(text: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_json(text, "there", error=RequestError)
    assert str(caught.value).startswith("there: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "latin.json").write_bytes(b'"\xe9"')
    (tmp_path / "large.json").write_bytes(b'"0123456789"')
    os.mkfifo(tmp_path / "pipe.json")
    monkeypatch.setattr(files, "LARGEST_TEXT", 11)
    for path, message in (
        (tmp_path / "none.json", "no such file"),
        (tmp_path / "latin.json", "not UTF-8 text (invalid continuation byte at byte 1)"),
        (tmp_path / "large.json", "cannot be read (larger than "),
        (tmp_path / "pipe.json", "cannot be read (not a regular file)"),
        (tmp_path, "cannot be read (not a regular file)"),
        (tmp_path / "large.json/x.json", "cannot be read (Not a directory)"),
        (tmp_path / f"{'x' * 300}.json", "cannot be read (File name too long)"),
        (Path("/dev/zero"), "cannot be read (not a regular file)"),
    ):
        with pytest.raises(UserError) as caught:
            read_json(path)
        assert str(caught.value).startswith(f"{path}: {message}")
