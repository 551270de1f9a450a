"""Canaries of the kit: in which forms they are found, and where nothing is."""

import base64
import bz2
import gzip
import json
import lzma
import sqlite3
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from langmem_isolated.testing import Canary, ReadableFound, assert_nothing_readable
from langmem_isolated.testing.canaries import Canaries, overlapping

CANARY = Canary.of("alice's PIN")
TEXT = CANARY.text

WRITTEN: dict[str, Callable[[str], bytes | str]] = {
    "as it is": str,
    "in lower case": str.lower,
    "in upper case": str.upper,
    "with its cases changed": str.swapcase,
    "backwards": lambda text: text[::-1],
    "without its beginning": lambda text: text[9:],
    "without its end": lambda text: text[:19],
    "with something in the middle": lambda text: f"{text[:14]} page 2 {text[14:]}",
    "in hexadecimal": lambda text: text.encode().hex(),
    "in upper hexadecimal": lambda text: text.encode().hex().upper(),
    "in UTF-16": lambda text: text.encode("utf-16"),
    "in UTF-16, big-endian": lambda text: text.encode("utf-16-be"),
    "in UTF-16, in hexadecimal": lambda text: text.encode("utf-16-le").hex(),
    "JSON-escaped": lambda text: "".join(f"\\u{ord(one):04X}" for one in text),
    "URL-encoded": lambda text: "".join(f"%{ord(one):02X}" for one in text),
    "in character references": lambda text: "".join(f"&#{ord(one)};" for one in text),
    **{
        f"in base64 behind {before}": lambda text, before=before: base64.b64encode(
            b"x" * before + text.encode() + b"behind"
        )
        for before in range(4)
    },
    "in lower case, in base64": lambda text: base64.b64encode(text.lower().encode()),
    "in UTF-16, in base64": lambda text: base64.b64encode(text.encode("utf-16-le")),
    "in a token": lambda text: base64.urlsafe_b64encode(json.dumps({"q": text}).encode()),
}


# Of these a half is found, and only what the kit makes says the same twice.
CUT = {"without its beginning", "without its end", "with something in the middle"}


@pytest.mark.parametrize("written", WRITTEN.values(), ids=WRITTEN)
def test_a_canary_is_found_in_every_form(written: Callable[[str], bytes | str]):
    found = Canaries([Canary.of("bob's PIN"), CANARY]).found_in(written(TEXT))

    assert [canary.label for canary, _ in found] == ["alice's PIN"]
    assert CANARY.is_in(written(TEXT))


@pytest.mark.parametrize("name", sorted(WRITTEN.keys() - CUT - {"in a token"}))
def test_a_text_of_ones_own_is_found_in_the_same_forms(name: str):
    pin = Canary("the PIN", "My PIN is 1234 >>> ???")

    assert pin.is_in(WRITTEN[name](pin.text))


def test_letters_that_no_ascii_has_are_found_escaped_and_encoded():
    canary = Canary("a name", "Zoë Müller")

    assert canary.is_in("said zoë müller")
    assert canary.is_in("Zoë Müller".encode("utf-16"))
    assert canary.is_in("".join(f"%{byte:02X}" for byte in "Zoë Müller".encode()))


def test_a_canary_stands_nowhere_by_chance_and_is_one_word():
    assert TEXT.isalnum()
    assert TEXT.isascii()
    assert quote(TEXT) == TEXT == json.dumps(TEXT)[1:-1]
    assert not Canaries([CANARY]).found_in(Path(__file__).read_bytes())
    assert len({Canary.of(f"user {number}").text for number in range(2000)}) == 2000


def test_a_canary_shows_its_label_and_never_its_text():
    assert repr(CANARY) == 'Canary("alice\'s PIN")'
    assert TEXT not in repr(CANARY) + str(CANARY)


@pytest.mark.parametrize(("text", "error"), [("short", ValueError), (b"My PIN", TypeError)])
def test_what_is_no_canary_is_refused(text: str, error: type[Exception]):
    with pytest.raises(error, match="canary"):
        Canary("the PIN", text)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_canary_across_blocks_is_found(size: int):
    whole = b"x" * 50 + TEXT.encode() + b"y" * 50
    blocks = overlapping(whole[at : at + size] for at in range(0, len(whole), size))

    assert any(CANARY.is_in(block) for block in blocks)


# Places.


def readable(*places: str | Path) -> list[tuple[str, str]]:
    with pytest.raises(ReadableFound) as caught:
        assert_nothing_readable(*places, canaries=[Canary.of("another"), CANARY])
    assert TEXT not in str(caught.value)
    assert {label for label, *_ in caught.value.found} == {"alice's PIN"}
    return [(where, form) for _, where, form in caught.value.found]


def zipped(path: Path, plain: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("alice.json", plain)


PACKED: dict[str, Callable[[Path, bytes], object]] = {
    "app.log": lambda path, plain: path.write_bytes(plain),
    "app.log.1.gz": lambda path, plain: path.write_bytes(gzip.compress(plain)),
    "app.log.2.bz2": lambda path, plain: path.write_bytes(bz2.compress(plain)),
    "app.log.3.xz": lambda path, plain: path.write_bytes(lzma.compress(plain)),
    "export.zip": zipped,
}


@pytest.mark.parametrize("name", PACKED)
def test_a_file_is_read_also_where_it_is_packed(name: str, tmp_path: Path):
    path = tmp_path / "logs" / name
    path.parent.mkdir()
    PACKED[name](path, b"line\n" * 10_000 + f"alice said {TEXT}\n".encode() * 3)

    assert readable(path)
    assert readable(tmp_path)[0][0].startswith(name)


def test_the_name_of_a_file_is_read_too(tmp_path: Path):
    (tmp_path / f"{TEXT}.json").write_text("{}")

    assert readable(tmp_path) == [("the name of a file", "as it is")]


def test_what_has_a_canary_in_its_name_is_not_called_by_it(tmp_path: Path, postgres_url: str):
    (tmp_path / f"{TEXT}.json").write_text(TEXT)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f'CREATE TABLE "{TEXT}" AS SELECT 1')

    found = {where for where, _ in readable(tmp_path, postgres_url)}

    assert found >= {"the name of a file", "what has one in its name", "names and comments"}


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite+pysqlite://"])
def test_a_database_in_memory_is_no_place(url: str):
    with pytest.raises(ValueError, match="in memory"):
        assert_nothing_readable(url, canaries=[CANARY])


def test_rows_of_sqlite_are_found_in_the_log_before_they_reach_the_file(tmp_path: Path):
    path = tmp_path / "memory.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE said (text)")
        connection.execute("INSERT INTO said VALUES (?)", [TEXT])

        assert {where for where, _ in readable(f"sqlite:///{path}")} == {"memory.db-wal"}
    assert {where for where, _ in readable(path)} == {"memory.db"}


def test_a_deleted_row_of_sqlite_is_found_in_the_free_pages(tmp_path: Path):
    path = tmp_path / "memory.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA secure_delete=OFF")
        connection.execute("CREATE TABLE said (text)")
        connection.execute("INSERT INTO said VALUES (?)", [f"{'x' * 9000}{TEXT}"])
        connection.execute("DELETE FROM said")

    assert readable(path)


def test_every_table_of_postgresql_is_read_and_what_the_server_knows_besides(postgres_url: str):
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA shop")
        connection.execute('CREATE TABLE shop."Said" (body bytea, more jsonb)')
        connection.execute(
            'INSERT INTO shop."Said" VALUES (%s, %s)',
            [f"é{TEXT}".encode("latin-1"), json.dumps({"said": [TEXT.lower()]})],
        )
        assert [where for where, _ in readable(postgres_url)] == ['table shop."Said"']
        connection.execute('ALTER TABLE shop."Said" ADD COLUMN plain text')
        connection.execute('INSERT INTO shop."Said" SELECT NULL, NULL, %s', [TEXT])
        connection.execute('INSERT INTO shop."Said" TABLE shop."Said"')
        connection.execute('ANALYZE shop."Said"')
        connection.execute(f"COMMENT ON SCHEMA shop IS '{TEXT}'")

        found = {where for where, _ in readable(postgres_url)}

    assert found >= {
        'table shop."Said"',
        "names and comments",
        "the planner's statistics",
        "running statements",
    }


def test_an_account_that_may_not_read_all_of_postgresql_is_refused(postgres_url: str):
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE ROLE reader LOGIN")
        try:
            url = postgres_url.replace("postgresql://postgres", "postgresql://reader")
            assert url != postgres_url
            with pytest.raises(PermissionError, match="superuser"):
                assert_nothing_readable(url, canaries=[CANARY])
        finally:
            connection.execute("DROP ROLE reader")


def test_what_would_be_no_search_is_refused(tmp_path: Path):
    (tmp_path / "empty.db").touch()
    full = tmp_path / "full.db"
    full.write_text("full")

    with pytest.raises(ValueError, match="no byte"):
        assert_nothing_readable(tmp_path / "empty.db", canaries=[CANARY])
    with pytest.raises(FileNotFoundError):
        assert_nothing_readable(tmp_path / "absent.db", canaries=[CANARY])
    with pytest.raises(ValueError, match="got none"):
        assert_nothing_readable(canaries=[CANARY])
    with pytest.raises(ValueError, match="got none"):
        assert_nothing_readable(full, canaries=[])
    with pytest.raises(TypeError, match="several texts"):
        assert_nothing_readable(full, canaries=TEXT)
    with pytest.raises(ValueError, match="Dump"):
        assert_nothing_readable("mysql://host/name", canaries=[CANARY])
    with pytest.raises(TypeError, match="path or a URL"):
        assert_nothing_readable(7, canaries=[CANARY])  # type: ignore[arg-type]
    assert assert_nothing_readable(full, canaries=[CANARY, "another text"]) == 4
