"""Conversations that an application encrypted with each user's Fernet key become sessions."""

import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from cryptography.fernet import Fernet
from langchain_core.messages import AIMessage, HumanMessage

from langmem_isolated.errors import SourceRefused
from langmem_isolated.importers import ForeignItem, ForeignSession, Rejected
from langmem_isolated.importers.application.fernet import FernetSource

WRITTEN = 1_780_000_000
KEYS = {user: Fernet.generate_key() for user in ("ann", "bob", "cyd", "dan", "eve", "fay", "gus")}
DOCUMENT = {
    "messages": [
        {"role": "user", "content": "Grüße", "timestamp": "2026-03-01T10:00:00+00:00"},
        {"role": "assistant", "content": "Hello!", "timestamp": "2026-03-01T10:00:05Z"},
    ],
    "general_chat": [{"role": "user", "content": "Tea?", "timestamp": 1_772_360_000}],
    "ai_conversation": [
        {"sender": "user", "text": "Riddle", "timestamp": "2026-03-02T08:00:00"},
        {
            "sender": "ai",
            "text": "A clock",
            "timestamp": "2026-03-02T08:00:01",
            "model": "small",
            "date": "tomorrow",
        },
    ],
    "metadata": {"visits": 3},
    "mood": "fine",
}


def token(user: str, document: object) -> str:
    text = document if isinstance(document, str) else json.dumps(document)
    return Fernet(KEYS[user]).encrypt_at_time(text.encode(), WRITTEN).decode()


def rows() -> list[tuple[str, str | None, str | None]]:
    """Ann and Bob are fine; of each of the others something is broken."""
    whole = token("bob", {"messages": [{"role": "user", "content": "no time"}, {"role": "?"}]})
    return [
        ("ann", KEYS["ann"].decode(), token("ann", DOCUMENT)),
        ("bob", KEYS["bob"].decode(), whole),
        ("cyd", KEYS["ann"].decode(), token("cyd", DOCUMENT)),
        ("dan", "too-short", token("dan", DOCUMENT)),
        ("eve", KEYS["eve"].decode(), token("eve", DOCUMENT)[:-20]),
        ("fay", KEYS["fay"].decode(), token("fay", '{"messages": [')),
        ("gus", None, token("gus", DOCUMENT)),
        ("hal", None, None),
        ("ian", KEYS["ann"].decode(), token("ann", "[1, 2]")),
    ]


@pytest.fixture
def application(tmp_path: Path) -> str:
    connection = sqlite3.connect(tmp_path / "app.db")
    connection.execute(
        "CREATE TABLE users (id TEXT, encryption_key TEXT, conversation_memory TEXT)"
    )
    connection.executemany("INSERT INTO users VALUES (?, ?, ?)", rows())
    connection.commit()
    connection.close()
    return str(tmp_path / "app.db")


def read(location: str, **options: object) -> list[tuple]:
    """Its units, with the messages of sessions gone through."""
    with FernetSource(location, **options) as source:
        return [
            (unit, list(unit.messages) if isinstance(unit, ForeignSession) else [])
            for unit in source.units()
        ]


def of(user: str, found: list[tuple]) -> list[tuple]:
    return [(u, said) for u, said in found if getattr(u, "fields", {}).get("user") == user]


def test_messages_come_in_order_with_their_channels_and_times(application):
    [(session, said), *_] = of("ann", read(application))

    assert [(type(m.message), m.message.content, m.channel) for m in said] == [
        (HumanMessage, "Grüße", None),
        (AIMessage, "Hello!", None),
        (HumanMessage, "Tea?", "general_chat"),
        (HumanMessage, "Riddle", "ai_conversation"),
        (AIMessage, "A clock", "ai_conversation"),
    ]
    assert [m.written_at.isoformat() for m in said] == [
        "2026-03-01T10:00:00+00:00",
        "2026-03-01T10:00:05+00:00",
        "2026-03-01T10:13:20+00:00",
        "2026-03-02T08:00:00+00:00",
        "2026-03-02T08:00:01+00:00",
    ]
    assert said[-1].message.response_metadata == {"model": "small", "date": "tomorrow"}
    assert session.updated_at == datetime.fromtimestamp(WRITTEN, UTC)


def test_all_else_of_a_document_becomes_items(application):
    items = [unit for unit, _ in of("ann", read(application)) if isinstance(unit, ForeignItem)]

    assert [(item.namespace, item.key, item.value) for item in items] == [
        (("conversation_memory",), "metadata", {"visits": 3}),
        (("conversation_memory",), "mood", {"value": "fine"}),
    ]


def test_a_message_without_a_time_has_that_of_the_token(application):
    [(_, [message, broken])] = of("bob", read(application))

    assert message.written_at == datetime.fromtimestamp(WRITTEN, UTC)
    assert broken.place == "users, row 2 by id, messages, message 2"


def test_a_wrong_key_or_broken_token_is_told_per_user_and_the_others_go_on(application):
    found = read(application)
    rejected = {unit.place: unit.reason for unit, _ in found if isinstance(unit, Rejected)}

    assert [*rejected] == [f"users, row {number} by id" for number in (3, 4, 5, 6, 7, 9)]
    texts = [*rejected.values()]
    assert "does not open" in texts[0]
    assert "a key that is not 32 bytes" in texts[1]
    assert "does not open" in texts[2]
    assert "no JSON" in texts[3]
    assert "there is no key" in texts[4]
    assert "JSON that is no object" in texts[5]
    said = repr(found) + " ".join(texts)
    hidden = [key.decode() for key in KEYS.values()] + ["Grüße", "cyd", "too-short", "gAAAA"]
    assert not [word for word in hidden if word in " ".join(texts)]
    assert not [key for key in hidden[:7] if key in said]


def test_keys_can_be_in_a_file_beside_the_database(application, tmp_path):
    path = tmp_path / "keys.csv"
    path.write_text("id,key\n" + "".join(f"{user},{key.decode()}\n" for user, key in KEYS.items()))

    found = read(application, keys=path)

    # Cyd's and Gus's own keys are there now, and Dan's is whole.
    assert [bool(of(user, found)) for user in ("ann", "cyd", "dan", "gus", "eve", "ian")] == [
        *(True, True, True, True, False, False),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("user;key\n", "lacks the column id or key"),
        ("id,key\nann,a\nann,b\n", "two keys of one id"),
        (b"id,key\n\xff,a\n", "no CSV in UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_has_no_keys_is_refused(application, tmp_path, text, reason):
    if text is not None:
        (tmp_path / "keys.csv").write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(SourceRefused, match=reason):
        FernetSource(application, keys=tmp_path / "keys.csv")


def test_other_names_of_table_columns_and_channels(tmp_path):
    connection = sqlite3.connect(tmp_path / "app.db")
    connection.execute('CREATE TABLE "per""sons" ("no" INTEGER, "k e y" BLOB, memory BLOB)')
    sealed = token("ann", {"forum": [{"role": "user", "content": "hi"}]})
    connection.execute('INSERT INTO "per""sons" VALUES (7, ?, ?)', (KEYS["ann"], sealed.encode()))
    connection.commit()
    connection.close()

    [(session, [message])] = read(
        str(tmp_path / "app.db"), table='per"sons', id_column="no", key_column="k e y",
        memory_column="memory", channel=["forum"],
    )  # fmt: skip

    assert (session.fields["user"], session.id, message.channel) == ("7", "memory", "forum")


def test_it_reads_postgresql_as_well(postgres_url):
    with psycopg.connect(postgres_url) as connection:
        connection.execute(
            "CREATE TABLE public.users (id text, encryption_key text, conversation_memory bytea)"
        )
        connection.execute(
            "INSERT INTO public.users VALUES (%s, %s, %s)",
            ("ann", KEYS["ann"].decode(), token("ann", DOCUMENT).encode()),
        )

    found = read(postgres_url, table="public.users")

    assert len(found[0][1]) == 5
    with pytest.raises(SourceRefused, match='column "key" does not exist'):
        read(postgres_url, table="public.users", key_column="key")


def test_a_table_that_is_not_there_is_told_by_its_name(application):
    with pytest.raises(SourceRefused, match="no such table: people"):
        read(application, table="people")


def test_what_a_model_called_wrongly_and_a_tool_without_its_call_are_kept(tmp_path):
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{"}}]
    said = [
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "42"},
        {"role": "assistant", "content": "", "tool_calls": [5]},
    ]
    with sqlite3.connect(tmp_path / "app.db") as connection:
        connection.execute("CREATE TABLE users (id, encryption_key, conversation_memory)")
        row = ("ann", KEYS["ann"], token("ann", {"messages": said}))
        connection.execute("INSERT INTO users VALUES (?, ?, ?)", row)
    connection.close()

    [(_, [wrong, answer, broken])] = read(str(tmp_path / "app.db"))

    assert wrong.message.invalid_tool_calls[0]["args"] == "{"
    assert (answer.message.type, answer.message.content) == ("tool", "42")
    assert "no AIMessage" in broken.reason
