"""What applications keep goes in whole, is verified, sealed, and comes out again."""

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from langmem_isolated import IsolatedMemory
from langmem_isolated.importers import Import, Mapping, Source, source_specs
from tests import test_import_fernet, test_import_tables
from tests.killed_imports import outlives_kills
from tests.test_import_langmem import store_file
from tests.test_import_mem0 import mem0
from tests.test_import_profiles import folder as profile_folder
from tests.test_import_tables import sqlite_application, tables

__all__ = ["mem0", "profile_folder", "sqlite_application", "store_file", "tables"]

Made = tuple[Source, Mapping]


@pytest.fixture
def tables_source(sqlite_application: str, tables: Path) -> Made:
    return source_specs()["tables"].make(sqlite_application, tables=tables), Mapping()


@pytest.fixture
def fernet_source(tmp_path: Path) -> Made:
    with sqlite3.connect(tmp_path / "fernet.db") as connection:
        connection.execute("CREATE TABLE users (id, encryption_key, conversation_memory)")
        rows = test_import_fernet.rows()
        connection.executemany("INSERT INTO users VALUES (?, ?, ?)", rows)
    connection.close()
    return source_specs()["fernet"].make(str(tmp_path / "fernet.db")), Mapping(module="chat")


@pytest.fixture
def profiles_source(profile_folder: Path) -> Made:
    return source_specs()["profiles"].make(str(profile_folder)), Mapping()


@pytest.fixture
def mem0_source(mem0: Path) -> Made:
    made = source_specs()["mem0"].make(str(mem0 / "qdrant"), history=mem0 / "history.db")
    return made, Mapping(module="assistant")


@pytest.fixture
def langmem_source(store_file: str) -> Made:
    return source_specs()["langmem"].make(store_file), Mapping(module="assistant")


@pytest.fixture(params=["tables", "fernet", "profiles", "mem0", "langmem"])
def made(request: pytest.FixtureRequest) -> Iterator[Made]:
    source, mapping = request.getfixturevalue(f"{request.param}_source")
    with source:
        yield source, mapping


# Of each source, records that are in it and can be put in, and words of its content.
CONTENT = {
    "tables": (6 + 3 + 3, ["What is ½", "C major", "teal", "Fractions"]),
    "fernet": (6 + 2, ["Grüße", "Riddle", "A clock", "no time"]),
    "profiles": (12, ["Has a test", "Plays chess", "A pupil", "Runs on"]),
    "langmem": (2, ["Likes chess", "Plays Go", "Memory"]),
    "mem0": (3 + 4 + 2, ["Likes chess", "Plays Shogi", "Hello, Ann", "games"]),
}


def state(paths: list[Path]) -> dict[str, str]:
    files = [path for path in paths if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_it_goes_in_whole_sealed_and_verified_and_comes_out_again(
    made: Made, tmp_path: Path, root_key
):
    source, mapping = made
    records, words = CONTENT[source.kind]
    target = tmp_path / "target"
    target.mkdir()
    before = state(list(source.files()))
    with IsolatedMemory(f"sqlite:///{target}/memory.db", root_key=root_key) as memory:
        memory.scope(user_id="zoe", module_id="chat").chat_history("s").add_user_message("here")
        with memory.bulk_import(bytes(16), source="none"):
            pass  # what is audited first makes the audit log's keys, which stay
        empty = _dump(target)
        move = Import(memory, source, mapping, unmapped="report", folder=tmp_path)
        assert move.plan().records == records
        assert _dump(target) == empty

        first, second = move.run(), move.run()

        assert (first.records, second.records) == (records, records)
        assert second.units.get("copied", 0) == second.units.get("continued", 0) == 0
        assert memory.verify().is_clean
        for path in target.iterdir():
            found = [word for word in words if word.encode() in path.read_bytes()]
            assert found == [], path
        for path in tmp_path.glob("import-*"):
            assert not [word for word in words if word.encode() in path.read_bytes()]
        memory.roll_back(move.token)
        assert _dump(target) == empty
    assert state(list(source.files())) == before


def _dump(target: Path) -> dict[str, list]:
    """Every table but the audit log, which tells of both ways."""
    connection = sqlite3.connect(target / "memory.db")
    names = [
        name
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        if not name.startswith("audit")
    ]
    rows = {name: sorted(connection.execute(f"SELECT * FROM {name}"), key=repr) for name in names}
    connection.close()
    return rows


def test_counts_by_user_and_module_are_the_same_on_both_sides(
    tables_source: Made, sqlite_application: str, tmp_path: Path, root_key
):
    source, mapping = tables_source
    application = sqlite3.connect(sqlite_application)
    owned = "JOIN projects p ON p.id = {}.project_id WHERE p.owner_id IS NOT NULL"
    sessions = dict(
        application.execute(
            "SELECT p.owner_id || '', count(*) FROM chat_sessions s "
            f"{owned.format('s')} GROUP BY p.owner_id"
        )
    )
    messages = dict(
        application.execute(
            "SELECT s.mode, count(*) FROM messages m JOIN chat_sessions s ON s.id = m.session_id "
            f"{owned.format('s')} AND m.role != 'oracle' GROUP BY s.mode"
        )
    )
    rows = dict(
        application.execute(
            "SELECT p.owner_id || c.mode, count(*) FROM conversation_memory c "
            f"{owned.format('c')} AND c.key != 'broken' GROUP BY p.owner_id, c.mode"
        )
    )
    application.close()

    with IsolatedMemory(f"sqlite:///{tmp_path}/memory.db", root_key=root_key) as memory, source:
        receipt = Import(memory, source, mapping, unmapped="report", folder=tmp_path).run()
        notebook = memory.scope(user_id="1", module_id="any").cross_module().attributes()
        ours: tuple[Counter[str], ...] = (Counter(), Counter(), Counter())
        for user in ("1", "2"):
            for module in ("tutor", "planner"):
                scope = memory.scope(user_id=user, module_id=module)
                found = scope.sessions(archived=None)
                ours[0][user] += len(found)
                ours[1][module] += sum(len(scope.chat_history(one.id).messages) for one in found)
                ours[2][user + module] += len(scope.store().search((), limit=99))

    assert [+count for count in ours] == [Counter(sessions), Counter(messages), Counter(rows)]
    # Ann has tutor and planner; so has Bob. None is there twice, and none is nobody's.
    with sqlite3.connect(tmp_path / "memory.db") as target:
        scopes = target.execute(
            "SELECT count(*), count(DISTINCT principal || project || module), count(principal) "
            "FROM scopes WHERE module IS NOT NULL"
        ).fetchone()
    target.close()
    assert scopes == (4, 4, 4)
    assert notebook == {"name": "Ann", "pets": ["cat"]}
    assert receipt.rejects == {"unmapped": 2, "rejected": 3}
    told = [json.loads(line) for line in Path(receipt.rejects_file).read_text().splitlines()]
    assert {"chat_sessions, row 5 by id"} <= {line["place"] for line in told}


def test_messages_items_and_profiles_are_read_as_the_application_wrote_them(
    fernet_source: Made, profiles_source: Made, mem0_source: Made, tmp_path: Path, root_key
):
    with IsolatedMemory(f"sqlite:///{tmp_path}/memory.db", root_key=root_key) as memory:
        for source, mapping in (fernet_source, profiles_source, mem0_source):
            Import(memory, source, mapping, unmapped="report", folder=tmp_path, backup=False).run()
            source.close()
        chat = memory.scope(user_id="ann", module_id="chat")
        said = chat.chat_history("conversation_memory")
        told = [(one.message.text, one.channel, f"{one.said_at:%d. %H:%M}") for one in said.timed()]
        profile = memory.scope(user_id="ann", module_id="tutor").profile()
        store = memory.scope(user_id="bob", module_id="assistant").store()
        [shogi] = [one for one in store.search(("memories",)) if one.namespace == ("memories",)]

        assert told == [
            ("Grüße", None, "01. 10:00"),
            ("Hello!", None, "01. 10:00"),
            ("Tea?", "general_chat", "01. 10:13"),
            ("Riddle", "ai_conversation", "02. 08:00"),
            ("A clock", "ai_conversation", "02. 08:00"),
        ]
        assert chat.store().get(("conversation_memory",), "metadata").value == {"visits": 3}
        assert [fact.text for fact in profile.facts()] == ["Has a test on Friday.", "Plays chess."]
        assert profile.attributes() == {"level": 3, "style": {"tone": "kind"}}
        assert shogi.value["data"] == "Plays Shogi"
        assert shogi.created_at < shogi.updated_at


def many_rows() -> dict[str, list[tuple]]:
    """Eight users with a project each, two sessions in it, and memory of it."""
    users = range(1, 9)
    sessions = [(f"s{n}", n % 8 + 1, "tutor", f"Title {n}", None, False) for n in range(16)]
    return {
        "projects": [(user, user, "Maths") for user in users],
        "chat_sessions": sessions,
        "messages": [
            (n, f"s{n % 16}", "user", f"Question {n}", f"2026-01-05 09:{n // 60:02}:{n % 60:02}")
            for n in range(400)
        ],
        "conversation_memory": [(user, "tutor", "goal", f"grade {user}", None) for user in users],
        "cross_module_memory": [(user, "name", f"Name {user}") for user in users],
    }


@pytest.fixture
def many(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Made]:
    """Makes a source of enough to be killed in, again and again."""
    kind = request.param
    if kind == "mem0":
        folder: Path = request.getfixturevalue("mem0")
        options = {"history": folder / "history.db"}
        return lambda: (
            source_specs()[kind].make(str(folder / "qdrant"), **options),
            Mapping(module="assistant"),
        )
    if kind == "langmem":
        store = request.getfixturevalue("store_file")
        return lambda: (source_specs()[kind].make(store), Mapping(module="assistant"))
    place = tmp_path / "source"
    place.mkdir()
    options = {}
    if kind == "tables":
        with sqlite3.connect(place / "app.db") as connection:
            connection.executescript(test_import_tables.SCHEMA)
            for table, rows in many_rows().items():
                marks = ", ".join("?" * len(rows[0]))
                connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
        connection.close()
        (place / "tables.toml").write_text(test_import_tables.TABLES)
        options = {"tables": place / "tables.toml"}
    elif kind == "fernet":
        key = Fernet.generate_key()
        rows = [
            (user, key, Fernet(key).encrypt(json.dumps(test_import_fernet.DOCUMENT).encode()))
            for user in range(8)
        ]
        with sqlite3.connect(place / "app.db") as connection:
            connection.execute("CREATE TABLE users (id, encryption_key, conversation_memory)")
            connection.executemany("INSERT INTO users VALUES (?, ?, ?)", rows)
        connection.close()
    else:
        for number in range(8):
            profile = {"facts": [f"Fact {n} of {number}" for n in range(5)], "level": number}
            (place / f"user_{number}.json").write_text(json.dumps(profile))
    location = place if kind == "profiles" else place / "app.db"
    mapping = Mapping(module="chat") if kind == "fernet" else Mapping()
    return lambda: (source_specs()[kind].make(str(location), **options), mapping)


@pytest.mark.slow
@pytest.mark.parametrize("many", ["tables", "fernet", "profiles", "mem0", "langmem"], indirect=True)
def test_killed_at_random_it_goes_on_to_what_one_clean_run_gives(
    many: Callable[[], Made], tmp_path: Path
):
    def make(memory: IsolatedMemory, folder: Path) -> Import:
        return Import(memory, *many(), unmapped="report", folder=folder, backup=False)

    outlives_kills(make, tmp_path, kills=3)
