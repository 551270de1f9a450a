"""Detection: says of a file, a folder or a zip which source reads it, by its first records."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from langmem_isolated._database.foreign import open_sqlite
from langmem_isolated.errors import SourceRefused
from langmem_isolated.importers.people import SPECS
from langmem_isolated.importers.people.files import ExportFiles
from langmem_isolated.importers.people.first_record import FirstRecord
from langmem_isolated.importers.people.json_stream import Broken
from langmem_isolated.importers.people.whatsapp_lines import line_of
from langmem_isolated.importers.registry import SourceSpec

_HEAD = 2**20
_LINES = 50
_SPECS = {spec.kind: spec for spec in SPECS}
_KNOWN = f"These are known by themselves: {', '.join(_SPECS)}; import --help lists all sources."

# The keys of a record, and those of the first object in its messages; the first that fit count.
_RECORDS: Sequence[tuple[str, Sequence[str], Sequence[str]]] = (
    ("chatgpt", ["mapping"], []),
    ("claude", ["chat_messages"], []),
    ("discord", ["guild", "channel", "messages"], []),
    ("librechat", ["conversationId", "messages"], []),
    ("librechat", ["conversationId", "messagesTree"], []),
    ("librechat", ["conversationId", "messageId"], []),
    ("open-webui", ["id", "chat"], []),
    ("open-webui", ["history", "models"], []),
    ("sharegpt", ["conversations"], ["from", "value"]),
    ("sharegpt", ["conversation"], ["from", "value"]),
    ("sharegpt", ["items"], ["from", "value"]),
    ("telegram", ["about", "chats"], []),
    ("telegram", ["personal_information", "chats"], []),
    ("telegram", ["id", "type", "messages"], ["date"]),
    ("openai-jsonl", ["messages"], ["role"]),
    ("openai-jsonl", ["role", "content"], []),
    ("openai-jsonl", ["role", "tool_calls"], []),
    ("openai-jsonl", ["custom_id", "body"], []),
)
# What the names of files in a folder or a zip say.
_NAMES = (
    ("mem", r"items/[A-Za-z]+\.jsonl"),
    # Its folder is called as its owner's language has it.
    ("discord", r"c?\d+/channel\.json"),
    ("slack", r"[^/]+/\d{4}-\d\d-\d\d\.json"),
    ("open-webui", r"webui\.db"),
    ("whatsapp", r"_chat\.txt|[^/]*whatsapp[^/]*\.txt"),
    ("telegram", r"result\.json"),
)
# What is no export of people: how it is known, what it is, and the source that reads it.
_FOLDERS = (
    (r"bagit\.txt", "an export of this package", ""),
    (r"profiles/(?:[^/]+/)?user_[^/]+\.json", "a folder of profiles", "profiles"),
    (r"collection/[^/]+/storage\.sqlite", "a folder of Qdrant, as mem0 has it", "mem0"),
)
_TABLES = (
    ({"checkpoints", "writes"}, "a database of LangGraph's SqliteSaver", "sqlite-saver"),
    ({"store", "store_migrations"}, "a database of LangGraph's SqliteStore", "sqlite-store"),
    ({"message_store"}, "a database of SQLChatMessageHistory", "sql-chat-history"),
    ({"history", "messages"}, "the history of mem0", "mem0"),
)
_OURS = {"installation", "key_sets", "scopes"}
_BEGINNINGS = (
    (b"\x1f\x8b", "a file packed by gzip", "Unpack it."),
    (b"Rar!", "an archive of RAR", "Unpack it."),
    (b"7z\xbc\xaf", "an archive of 7-Zip", "Unpack it."),
    (b"%PDF", "a PDF", "Export it again as JSON or text."),
    (b"\xff\xfe", "text in UTF-16", "Save it again as UTF-8."),
    (b"\xfe\xff", "text in UTF-16", "Save it again as UTF-8."),
)


def detect(path: Path) -> SourceSpec:
    """Which source reads what is at a path; nothing of it but its beginning is looked at.

    Raises:
        SourceRefused: None of people's does: what it looks like and what would work, in one line,
            which tells keys of JSON only where they look like names of fields.
    """
    files = ExportFiles(path)
    if files.is_folder or files.is_zip:
        return _SPECS[_kind_of_several(files)]
    return _SPECS[_kind_of_file(files, files.names[0])]


def _kind_of_several(files: ExportFiles) -> str:
    what = "zip" if files.is_zip else "folder"
    for pattern, known, source in _FOLDERS:
        if files.matching(pattern):
            raise _of_another(f"The {what} looks like {known}", source)
    for name in files.matching(r"conversations(?:-\d+)?\.json")[:1]:
        # Before others: what was attached to conversations is beside them, by any name.
        with suppress(SourceRefused):
            return _kind_of_file(files, name)
    for kind, pattern in _NAMES:
        if files.matching(pattern):
            return kind
    for name in files.matching(r"[^/]*\.(?:jsonl?|txt)")[:_LINES]:
        with suppress(SourceRefused):
            return _kind_of_file(files, name)
    raise SourceRefused(
        f"The {what} has {len(files.names):,} files, and none is one that is known", _KNOWN
    )


def _kind_of_file(files: ExportFiles, name: str) -> str:
    try:
        with files.open(name) as reading:
            head = reading.read(_HEAD)
    except Broken as broken:
        raise SourceRefused(f"The file is not read: {broken.args[0]}", _KNOWN) from None
    if head.startswith(b"SQLite format 3\0") and not files.is_zip:
        return _kind_of_database(files.path / name if files.is_folder else files.path)
    return _kind_of_head(head)


def _kind_of_head(head: bytes) -> str:
    for beginning, known, advice in _BEGINNINGS:
        if head.startswith(beginning):
            raise SourceRefused(f"The file looks like {known}", advice)
    record = FirstRecord.of(head)
    if record is not None:
        return _kind_of_record(record)
    lines = head.decode("utf-8", "replace").splitlines()[:_LINES]
    if any(map(line_of, lines)):
        return "whatsapp"
    if head.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        raise SourceRefused("The file looks like a page of HTML", "Give the JSON of the export.")
    what = "an empty file" if not head else "binary" if b"\0" in head else "text"
    raise SourceRefused(f"The file looks like {what}, and no layout that is known", _KNOWN)


def _kind_of_record(record: FirstRecord) -> str:
    for kind, keys, inner in _RECORDS:
        if record.has(keys, inner):
            return kind
    if record.is_list and record.has(["type", "data"]):
        raise _of_another("The file looks like FileChatMessageHistory's", "file-chat-history")
    raise SourceRefused(f"The file looks like {record.described()}", _KNOWN)


def _kind_of_database(path: Path) -> str:
    with closing(open_sqlite(path, is_brief=True)) as connection:
        try:
            rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            tables = {row[0] for row in rows}
            columns = {row[1] for table in ("chat", "store") for row in _columns(connection, table)}
        except connection.Error as error:
            told = f"The database cannot be read ({type(error).__name__})"
            raise SourceRefused(told, "Give it with its -wal file beside it.") from None
    if "chat" in tables and {"chat", "user_id"} <= columns:
        return "open-webui"
    if tables >= _OURS:
        raise SourceRefused(
            "The file looks like a database of this package",
            "langmem-isolated export writes what a user has in it, and import FILE puts that in.",
        )
    for there, known, source in _TABLES:
        if there <= tables:
            raise _of_another(f"The file looks like {known}", source)
    if "store" in tables and {"prefix", "key", "value"} <= columns:
        raise _of_another(
            "The file looks like a database of LangGraph's SqliteStore", "sqlite-store"
        )
    raise SourceRefused(
        f"The file looks like an SQLite database with {len(tables)} tables of an application",
        "langmem-isolated import tables FILE reads it, with a file that says what its columns are.",
    )


def _columns(connection: Any, table: str) -> list[Any]:
    return list(connection.execute(f"PRAGMA table_info({table})"))


def _of_another(what: str, source: str) -> SourceRefused:
    words = " ".join(filter(None, ("import", source, "FILE")))
    return SourceRefused(what, f"langmem-isolated {words} reads it, as its --help says.")
