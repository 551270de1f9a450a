"""What a file is, is found out from its beginning; of one that is not known, a line says what it
looks like and what would work, and nothing of what it says."""

import json
import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path

import pytest

from langmem_isolated.errors import SourceRefused
from langmem_isolated.importers.people.detection import detect
from langmem_isolated.importers.people.first_record import FirstRecord

EXPORTS = Path(__file__).parent.parent / "examples" / "exports"
KINDS = {
    "chatgpt.json": "chatgpt",
    "claude.json": "claude",
    "discord.json": "discord",
    "librechat.json": "librechat",
    "open_webui.json": "open-webui",
    "openai.jsonl": "openai-jsonl",
    "sharegpt.json": "sharegpt",
    "slack": "slack",
    "telegram.json": "telegram",
    "whatsapp.txt": "whatsapp",
}
SECRET = "the secret of the well"


def refusal(path: Path) -> str:
    """The one line that is said of it."""
    with pytest.raises(SourceRefused) as caught:
        detect(path)
    line = str(caught.value)
    assert "\n" not in line
    assert SECRET not in line
    return line


def test_every_sample_has_its_kind():
    assert {path.name for path in EXPORTS.iterdir()} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_a_sample_is_known_without_a_switch(name: str):
    assert detect(EXPORTS / name).kind == KINDS[name]


@pytest.mark.parametrize(
    ("name", "inside", "kind"),
    [
        ("chatgpt.json", "conversations.json", "chatgpt"),
        ("chatgpt.json", "export/conversations-000.json", "chatgpt"),
        ("claude.json", "conversations.json", "claude"),
        ("whatsapp.txt", "_chat.txt", "whatsapp"),
        ("whatsapp.txt", "WhatsApp Chat with Bob.txt", "whatsapp"),
        ("telegram.json", "DataExport/result.json", "telegram"),
    ],
)
def test_a_sample_is_known_inside_of_a_zip_and_of_a_folder(
    tmp_path: Path, name: str, inside: str, kind: str
):
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.write(EXPORTS / name, inside)
        archive.writestr("chat.html", "<html></html>")
    with zipfile.ZipFile(tmp_path / "export.zip") as archive:
        archive.extractall(tmp_path / "folder")

    assert detect(tmp_path / "export.zip").kind == kind
    assert detect(tmp_path / "folder").kind == kind


def test_a_package_of_discord_is_known(tmp_path: Path):
    (tmp_path / "Messages" / "c7").mkdir(parents=True)
    (tmp_path / "Messages" / "c7" / "channel.json").write_text('{"id": "7"}')

    assert detect(tmp_path).kind == "discord"


TABLES = {
    "sqlite-saver": ["checkpoints (a)", "writes (a)"],
    "sqlite-store": ["store (prefix, key, value)"],
    "sql-chat-history": ["message_store (id, session_id, message)"],
    "mem0": ["history (id)", "messages (id)"],
    "tables": ["users (id)", "notes (id)"],
}


@pytest.mark.parametrize("kind", TABLES)
def test_of_a_database_that_is_no_persons_export_the_command_is_named(tmp_path: Path, kind: str):
    path = tmp_path / "some.db"
    with closing(sqlite3.connect(path)) as connection:
        for table in TABLES[kind]:
            connection.execute(f"CREATE TABLE {table}")
        connection.commit()
    before = path.read_bytes()

    assert f"langmem-isolated import {kind} FILE reads it" in refusal(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "an empty file"),
        (b"[]", "a JSON list without objects"),
        (b"{}", "an empty JSON object"),
        (b"[build-system]\nrequires = []", "looks like text"),
        (SECRET.encode(), "looks like text"),
        (b"\x00\x01\x02" * 50, "looks like binary"),
        (b"\x1f\x8b\x08", "packed by gzip"),
        (b"%PDF-1.7", "a PDF"),
        ("{}".encode("utf-16"), "UTF-16"),
        (b"<!DOCTYPE html><html>", "a page of HTML"),
        (json.dumps([{"a": 1, "b": 2, "c": SECRET}]).encode(), "objects with the keys a, b, c."),
        (json.dumps({SECRET: 1, "b": 2}).encode(), "a JSON object with 2 keys"),
        (json.dumps({f"k{n}": n for n in range(50)}).encode(), "k7 and 42 more"),
        (
            json.dumps([{"type": "human", "data": {"content": SECRET}}]).encode(),
            "import file-chat-history FILE",
        ),
        (b'{"messages": ' + b"[" * 5_000, "with the keys messages"),
        (b'["' + b"x" * 3_000_000, "looks like text"),
    ],
)
def test_of_a_layout_that_is_not_known_it_is_said_what_it_looks_like(
    tmp_path: Path, content: bytes, said: str
):
    path = tmp_path / "export.json"
    path.write_bytes(content)

    assert said in refusal(path)


def test_other_folders_zips_and_paths_are_told_apart(tmp_path: Path):
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "bagit.txt").write_text("")
    (tmp_path / "none").mkdir()
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04" + bytes(40))

    assert "langmem-isolated import FILE reads it" in refusal(tmp_path / "ours")
    assert "The folder has 0 files" in refusal(tmp_path / "none")
    assert "the beginning of a zip. Fetch the export again." in refusal(tmp_path / "broken.zip")
    assert "No such file" in refusal(tmp_path / "absent")
    assert "neither a file nor a folder" in refusal(Path("/dev/null"))


def test_only_the_beginning_of_a_file_is_looked_at():
    """The record is known before its end is there."""
    record = FirstRecord.of(b'[{"title": "x", "mapping": {"root": {"id"')

    assert record is not None
    assert record.keys == ["title", "mapping"]
