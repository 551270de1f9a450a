import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage
from rich.console import Console

from langmem_isolated import IsolatedMemory, LocalRootKey, Scope
from langmem_isolated.cli.demo import attack, player, sections
from langmem_isolated.cli.demo.conversations import Conversation, Place, read_conversations
from langmem_isolated.cli.demo.sections import Run, Section
from tests.command_line import KEY, OTHER_KEY, error_line, run, words
from tests.conftest import ROOT_KEY

ANN = {"user": "ann@example.org", "module": "study-tutor"}


@pytest.fixture
def played(database_url: str, root_key: LocalRootKey) -> Iterator[Run]:
    """Our own conversations, played into a fresh database of either kind."""
    with IsolatedMemory(database_url, root_key=root_key) as memory:
        yield player._play(Console(quiet=True), memory, read_conversations(None))


def as_file(folder: Path, conversations: Any) -> Path:
    file = folder / "conversations.json"
    file.write_text(json.dumps(conversations))
    return file


def as_lines(folder: Path, *lines: object) -> Path:
    file = folder / "conversations.jsonl"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return file


def said(user: str, content: object, *, session: str = "monday-1", role: str = "user") -> Any:
    return {
        "user_id": user,
        "module_id": "tutoring",
        "session_id": session,
        "role": role,
        "content": content,
    }


def contents(url: str, user: str, module: str, session: str) -> list[Any]:
    with IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY)) as memory:
        history = memory.scope(user_id=user, module_id=module).chat_history(session)
        return [message.content for message in history.messages]


def test_it_needs_nothing_and_leaves_nothing_behind(tmp_path: Path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LANGMEM_ISOLATED")}
    temporary = tmp_path / "temporary"
    temporary.mkdir()

    ran = subprocess.run(
        [sys.executable, "-W", "error", "-m", "langmem_isolated", "demo"],
        cwd=tmp_path,
        env={**environment, "COLUMNS": "100", "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ran.returncode, ran.stderr) == (0, "")
    assert "15 of 15 claims hold." in ran.stdout
    assert list(temporary.iterdir()) == []
    assert list(tmp_path.iterdir()) == [temporary]


def test_it_shows_who_sees_what(database_url: str):
    shown = run("demo", "--database", database_url)

    assert shown.exit_code == 0
    text = words(shown.stdout)
    assert "ann@example.org study-tutor session-1 8 Can you explain why" in text
    assert "bob@example.org trip-planner session-1 6 We want to cycle" in text
    assert "stranger@example.org study-tutor 1 0 0" in text
    assert "are found 0 times" in text
    assert "refused: its key is not one of this owner's" in text
    assert "this package 10" in text
    assert "a bare vector store, its filter forgotten" in text


def test_what_it_wrote_into_a_given_database_is_read_later(database_url: str):
    first = run("demo", "--database", database_url)
    second = run("demo", "--database", database_url)

    assert (first.exit_code, second.exit_code) == (0, 0), second.output
    assert "thrown away" not in first.stdout
    once = [
        message["content"]
        for message in json.loads(
            (Path(player.__file__).parent / "conversations.json").read_text()
        )[0]["messages"]
    ]
    assert contents(database_url, "ann@example.org", "study-tutor", "session-1") == once * 2


def test_without_a_root_key_it_says_that_a_given_database_becomes_unreadable(sqlite_url: str):
    shown = run("demo", "--database", sqlite_url, key=None)

    assert shown.exit_code == 0
    assert "throws it away" in shown.stdout
    assert "will be unreadable afterwards" in words(shown.stdout)


def test_in_a_temporary_database_nothing_needs_to_be_read_later():
    assert "unreadable" not in run("demo", key=None).stdout


def test_a_root_key_that_is_named_but_missing_is_not_replaced_by_another(tmp_path: Path):
    shown = run("demo", key=None, LANGMEM_ISOLATED_ROOT_KEY_FILE=str(tmp_path / "absent"))

    assert "LANGMEM_ISOLATED_ROOT_KEY_FILE" in error_line(shown)


def test_a_database_begun_with_another_root_key_is_left_alone(database_url: str):
    run("demo", "--database", database_url)

    assert "wrapped by root key" in error_line(
        run("demo", "--database", database_url, key=OTHER_KEY)
    )


def test_conversations_without_users_are_spread_over_two_users_and_two_modules(
    tmp_path: Path, sqlite_url: str
):
    file = as_file(
        tmp_path,
        [{"messages": [{"role": "user", "content": f"This is number {n}"}]} for n in range(6)],
    )

    assert run("demo", "--database", sqlite_url, "--conversations", file).exit_code == 0
    assert contents(sqlite_url, "ann@example.org", "study-tutor", "session-1") == [
        "This is number 0"
    ]
    assert contents(sqlite_url, "bob@example.org", "trip-planner", "session-1") == [
        "This is number 3"
    ]
    assert contents(sqlite_url, "bob@example.org", "study-tutor", "session-2") == [
        "This is number 5"
    ]


def test_lines_say_themselves_whose_they_are(tmp_path: Path, sqlite_url: str):
    file = as_lines(
        tmp_path,
        said("anna-1", "My cat is ill"),
        said("berta-2", "My dog is well"),
        said("anna-1", "I am sorry", role="assistant"),
        said("berta-2", "Good dog", role="assistant"),
    )

    shown = run("demo", "--database", sqlite_url, "--conversations", file)

    assert shown.exit_code == 0, shown.output
    assert "visitor" not in shown.stdout
    assert contents(sqlite_url, "anna-1", "tutoring", "monday-1") == ["My cat is ill", "I am sorry"]
    assert contents(sqlite_url, "berta-2", "tutoring", "monday-1") == ["My dog is well", "Good dog"]


def test_to_a_user_alone_a_visitor_with_the_same_session_id_is_added(
    tmp_path: Path, sqlite_url: str
):
    file = as_lines(tmp_path, said("visitor-1@example.org", "Is there anybody else?"))

    shown = run("demo", "--database", sqlite_url, "--conversations", file)

    assert shown.exit_code == 0, shown.output
    assert "visitor-2@example.org tutoring monday-1 8" in words(shown.stdout)
    assert contents(sqlite_url, "visitor-1@example.org", "tutoring", "monday-1") == [
        "Is there anybody else?"
    ]


ODD = [
    {"role": "assistant", "content": "Welcome! I speak first."},
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "One"},
    {"role": "user", "content": "two in a row", "name": "ann", "mood": {"is": ["good"]}},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
        ],
    },
    {"role": "tool", "content": "42", "tool_call_id": "c1"},
    {"role": "tool", "content": "a result of no call"},
    {"role": "function", "content": "an older result"},
    {"role": "assistant", "content": ""},
    {"role": "assistant", "content": "and another reply, 日本語 👩‍💻 \u0000\u001b[31m\u202e"},
    {"role": "Narrator", "content": "Meanwhile elsewhere"},
    {"role": "user", "content": [{"type": "text", "text": "a part"}, {"type": "image_url"}]},
    {"role": "assistant", "content": "x" * 300_000},
    {"role": "user", "content": "nobody answers this"},
]


def test_odd_conversations_lose_nothing(tmp_path: Path, database_url: str):
    file = as_file(tmp_path, [{"messages": ODD}, {"messages": []}, {"messages": ODD[::-1]}])

    shown = run("demo", "--database", database_url, "--conversations", file)

    assert shown.exit_code == 0, shown.output
    stored = contents(database_url, "ann@example.org", "study-tutor", "session-1")
    assert stored == [message["content"] or "" for message in ODD]
    stored = contents(database_url, "ann@example.org", "trip-planner", "session-1")
    assert stored == [message["content"] or "" for message in ODD[::-1]]


def test_fields_of_messages_are_kept(tmp_path: Path):
    (conversation,) = read_conversations(as_file(tmp_path, [{"messages": ODD}]))
    messages = conversation.messages

    assert messages[3] == HumanMessage(
        "two in a row", name="ann", id=messages[3].id, additional_kwargs={"mood": {"is": ["good"]}}
    )
    assert isinstance(messages[4], AIMessage)
    assert messages[4].tool_calls == [
        {"name": "add", "args": {"a": 1}, "id": "c1", "type": "tool_call"}
    ]
    assert messages[10] == ChatMessage("Meanwhile elsewhere", role="Narrator", id=messages[10].id)


SECRET = "the secret of the well"
GOOD = {"role": "user", "content": SECRET}
CALLS = {"role": "assistant", "content": SECRET}


@pytest.mark.parametrize(
    ("text", "where", "problem"),
    [
        ("", "the whole file", "no message"),
        ("[]", "the whole file", "no message"),
        ('[{"messages": []}]', "the whole file", "no message"),
        (f'[{{"messages": [\n"{SECRET}', "line 2, column 1", "not JSON"),
        (json.dumps([SECRET]), "conversation 1", "expected an object, got str"),
        (json.dumps([{"messages": [GOOD]}, {}]), "conversation 2", "got nothing"),
        (json.dumps([{"messages": SECRET}]), "conversation 1", "a list, got str"),
        (json.dumps([{"messages": [GOOD, SECRET]}]), "conversation 1, message 2", "got str"),
        (json.dumps([{"messages": [{"content": SECRET}]}]), "message 1", "role to be text"),
        (json.dumps([{"messages": [GOOD, {"role": "user"}]}]), "message 2", "content to be text"),
        (json.dumps([{"messages": [{**GOOD, "content": 7}]}]), "message 1", "got int"),
        (json.dumps({"messages": [GOOD, SECRET]}, indent=2), "message 2", "an object, got str"),
        (f"{json.dumps([GOOD])}\n{json.dumps([SECRET])}", "line 2, message 1", "got str"),
        (f'{{"messages": []}}\n{{"messages": "{SECRET}"}}', "line 2", "a list, got str"),
        (
            f'{{"messages": [\n{{"role": "user", "content": "{SECRET}"\n',
            "line 3, column 1",
            "not JSON",
        ),
        (f'{{"messages": "{SECRET}\n{{"messages": []}}', "line 1, column 14", "not JSON"),
        (json.dumps(SECRET), "conversation 1", "expected an object, got str"),
        (json.dumps([{"messages": [{**CALLS, "tool_calls": [SECRET]}]}]), "message 1", "LangChain"),
        (json.dumps([{"messages": [{**CALLS, "tool_calls": [7]}]}]), "message 1", "LangChain"),
        ('[{"messages": [{"role": "user", "content": "a", "x": NaN}]}]', "line 1", "number"),
        ("[" * 100_000, "line 1", "depth"),
        ("[\n" * 100_000, "the file", "depth"),
        (f"{json.dumps(said('ann-0001', SECRET))}\n\n{SECRET}", "line 3, column 1", "not JSON"),
        (json.dumps(said("", SECRET)), "line 1", "user_id must be"),
        (json.dumps({**said("ann-0001", SECRET), "session_id": 7}), "line 1", "session_id must be"),
        (json.dumps(GOOD), "line 1", "user_id must be"),
        (json.dumps({"conversations": [GOOD]}), "line 1", "an object with messages or role"),
        (json.dumps([said("ann-0001", "one"), GOOD]), "message 2", "user_id must be"),
        (json.dumps({"messages": [GOOD], "user_id": "ann"}), "conversation 1", "module_id must be"),
        (
            "\n".join(json.dumps({"messages": [GOOD]}, indent=2) for _ in "ab"),
            "line 9",
            "another JSON value begins; put them into one list, or each into one line",
        ),
        (f"{json.dumps(said('ann-0001', 'one'))}\n7", "line 2", "expected an object, got int"),
    ],
)
def test_a_malformed_file_is_refused_by_its_place_before_anything_is_written(
    tmp_path: Path, text: str, where: str, problem: str
):
    file = tmp_path / "conversations"
    file.write_text(text)
    database = tmp_path / "memory.db"

    line = error_line(run("demo", "--database", f"sqlite:///{database}", "--conversations", file))

    assert f"{where}:" in line
    assert problem in line
    assert "Nothing was written." in line
    assert SECRET not in line
    assert not database.exists()


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path):
    not_text = tmp_path / "not-text"
    not_text.write_bytes(b"[\n\xff]")

    assert "No such file" in error_line(run("demo", "--conversations", tmp_path / "absent"))
    assert "directory" in error_line(run("demo", "--conversations", tmp_path))
    assert "line 2: a byte that is not UTF-8" in error_line(
        run("demo", "--conversations", not_text)
    )


def test_separators_inside_a_line_do_not_end_it(tmp_path: Path):
    file = tmp_path / "conversations"
    spoken = "one\u2028two\u0085three"
    file.write_text(json.dumps(said("ann-0001", spoken), ensure_ascii=False), "utf-8-sig")

    ((conversation,),) = [read_conversations(file)]

    assert [message.content for message in conversation.messages] == [spoken]


def test_hostile_text_does_not_act_on_the_terminal(tmp_path: Path):
    hostile = "[bold]\x1b]0;owned\x07\x9b31m\u202e:smile:"
    file = as_lines(tmp_path, said("[red]ann[/red]", hostile), said("berta-2", hostile))

    shown = run("demo", "--conversations", file)

    assert shown.exit_code == 0, shown.output
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(shown.output)
    assert "[red]ann[/red]" in shown.stdout
    assert "[bold]\\x1b]0;owned" in shown.stdout


def test_a_section_may_be_added_and_a_claim_that_does_not_hold_fails_the_demo(
    monkeypatch: pytest.MonkeyPatch,
):
    def mine(played: Run) -> Section:
        return Section("My section", [], {"there are 3 conversations": len(played.spent) == 3})

    monkeypatch.setattr(player, "SECTIONS", (*player.SECTIONS, mine))

    shown = run("demo")

    assert shown.exit_code == 1
    assert "✗ there are 3 conversations" in shown.stdout
    assert "15 of 16 claims hold." in shown.stdout


def claims(section: Section) -> list[bool]:
    return list(section.claims.values())


def test_a_message_too_many_is_noticed(played: Run):
    assert claims(sections.what_each_user_sees(played)) == [True]

    sections.history(played.memory, played.conversations[0].place).add_user_message("hello")

    section = sections.what_each_user_sees(played)
    assert claims(section) == [False]
    assert "3 of 4 conversations" in str(section.claims)


def test_a_message_that_somebody_else_sees_is_noticed(played: Run):
    assert claims(sections.what_the_others_see(played)) == [True, True]

    leaked = Place(sections.STRANGER, played.conversations[0].place.session_id)
    messages = played.conversations[0].messages
    sections.history(played.memory, leaked).add_messages(messages)

    section = sections.what_the_others_see(played)
    assert claims(section) == [False, False]
    assert f"with {len(messages)} messages of theirs" in str(section.claims)


def test_a_text_that_stands_readable_in_the_database_is_noticed(played: Run):
    assert claims(sections.what_a_thief_reads(played)) == [True, True]

    content = played.conversations[3].messages[-1].text.encode()
    records = sections.schema.records

    def leak(connection: Any) -> None:
        connection.execute(records.update().values(tag=content[:70]))

    played.memory._database.inspect(leak)

    section = sections.what_a_thief_reads(played)
    assert claims(section) == [False, True]


def test_rows_are_put_back_after_each_attack(played: Run):
    before = attack.stored(played.memory._database)

    assert claims(sections.rows_that_were_changed(played)) == [True, True, True]

    after = attack.stored(played.memory._database)
    assert {name: after[name] for name in after if "shm" not in name} == {
        name: before[name] for name in before if "shm" not in name
    }


def test_a_search_that_looks_for_nothing_claims_nothing(database_url: str, root_key: LocalRootKey):
    place = Place(Scope("ann", "tutor"), "monday")
    short = Conversation(place, [HumanMessage("hi", id="1")])
    with IsolatedMemory(database_url, root_key=root_key) as memory:
        played = player._play(Console(quiet=True), memory, [short])

        section = sections.what_a_thief_reads(played)

    assert claims(section) == []
    assert "nothing is claimed" in str(section.tables[-1].caption)


def test_a_search_that_finds_less_than_it_should_is_noticed(
    played: Run, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(attack, "unprotected", lambda _: b"")

    assert claims(sections.what_a_thief_reads(played)) == [True, False]


IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/1.png"}}
HELLO = {"role": "assistant", "content": "Hello!"}
REFUSED = {"role": "assistant", "content": None, "refusal": "No."}


@pytest.mark.parametrize(
    "conversations",
    [
        [[HELLO]],
        [[HELLO], [HELLO]],
        [[{"role": "user", "content": None}]],
        [[{"role": "user", "content": [IMAGE]}, {"role": "assistant", "content": [IMAGE]}]],
        [[{"role": "user", "content": "Hi"}, REFUSED], [REFUSED]],
        [[{"role": "user", "content": "?"}], [{"role": "user", "content": "?"}]],
        [[{"role": "system", "content": "Be kind."}]],
        [[{"role": "user", "content": ""}, {"role": "tool", "content": None}], [HELLO]],
        [[{"role": "user", "content": "Hi", "id": "1"}, {**HELLO, "id": "1"}] * 2],
    ],
    ids=str,
)
def test_conversations_that_can_show_little_fail_no_claim(
    tmp_path: Path, conversations: list[list[Any]]
):
    shown = run("demo", "--conversations", as_file(tmp_path, conversations))

    assert shown.exit_code == 0, shown.output
    assert "✗" not in shown.stdout


def test_one_shape_is_as_good_as_another(tmp_path: Path):
    one, two = [[{"role": "user", "content": f"This is {n}"}, HELLO] for n in range(2)]
    objects = [{"messages": one}, {"messages": two}]
    both = [["This is 0", "Hello!"], ["This is 1", "Hello!"]]
    shapes: list[tuple[str, list[list[str]]]] = [
        (json.dumps(objects), both),
        (json.dumps(objects, indent=2), both),
        (json.dumps([one, two], indent=2), both),
        ("\n".join(map(json.dumps, objects)), both),
        ("\r\n".join(map(json.dumps, objects)), both),
        ("\n".join(map(json.dumps, [one, two])), both),
        (json.dumps(objects[0]), both[:1]),
        (json.dumps(objects[0], indent=4), both[:1]),
        (json.dumps(one), both[:1]),
        (json.dumps(one, indent=1), both[:1]),
        (json.dumps({"tools": [], **objects[0]}), both[:1]),
        (json.dumps(said("ann-0001", "Hi"), indent=2), [["Hi"]]),
    ]
    for text, expected in shapes:
        file = tmp_path / "conversations"
        file.write_text(text)

        read = read_conversations(file)

        assert [[m.content for m in one.messages] for one in read] == expected, text


def test_whose_messages_are_is_read_in_a_list_and_beside_a_conversation_too(tmp_path: Path):
    rows = [said(user, f"{user} {n}") for n in (1, 2) for user in ("ann-0001", "bob-0001")]
    beside = [
        {
            **{name: row.pop(name) for name in ("user_id", "module_id", "session_id")},
            "messages": [row],
        }
        for row in json.loads(json.dumps(rows))
    ]

    for document in (rows, beside):
        read = read_conversations(as_file(tmp_path, document))
        assert {c.place.scope.user_id: [m.text for m in c.messages] for c in read} == {
            user: [f"{user} 1", f"{user} 2"] for user in ("ann-0001", "bob-0001")
        }


def test_content_that_is_null_is_empty_and_keeps_what_stands_beside_it(tmp_path: Path):
    ((conversation),) = read_conversations(as_file(tmp_path, [[REFUSED]]))

    (message,) = conversation.messages
    assert message.content == ""
    assert message.additional_kwargs == {"refusal": "No."}


def test_help_and_refusals_say_which_shapes_are_taken(tmp_path: Path):
    told = re.sub(r"[│\s]+", " ", run("demo", "--help").stdout)
    refused = error_line(run("demo", "--conversations", as_file(tmp_path, [7])))

    for text in (told, refused):
        for shape in ('{"messages": ', "OpenAI", "list", "JSON lines", "user_id, module_id"):
            assert shape in text


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=70, max_size=200),
    st.integers(0, 6),
    st.binary(max_size=20),
)
def test_63_bytes_of_a_text_are_found_wherever_they_stand(text: str, start: int, before: bytes):
    pieces = attack.pieces_of([text])
    fragment = text.encode()[start : start + 63]

    found = attack.found_in(before + fragment + b"\x00", pieces)

    assert any(piece in fragment for piece in found)
    assert all(piece in before + fragment + b"\x00" for piece in found)


def test_the_key_of_the_tests_is_the_key_of_the_command_line():
    assert LocalRootKey.from_text(KEY).key_id == LocalRootKey(ROOT_KEY).key_id
