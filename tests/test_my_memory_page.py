"""Users see what is remembered of them, and correct, share, take along, lock and forget it."""

import io
import json
import os
import re
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import START, StateGraph
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient
from typing_extensions import TypedDict

from langmem_isolated import AuditOptions, IsolatedMemory, LocalRootKey, SessionRules
from langmem_isolated.admin import memory_app
from langmem_isolated.admin.person import locks, pages, taking_along
from langmem_isolated.errors import KeyDestroyed, MemoryLocked
from langmem_isolated.scope import Scope
from tests.langgraph_threads import joined
from tests.my_memory import (
    Person,
    client_of,
    forms_of,
    links_of,
    named_links,
    remember,
    scope_of_header,
    walked,
)
from tests.threads import at, put

PASSPHRASE = "correct horse battery"


@pytest.fixture
def on_sqlite(sqlite_url: str, root_key: LocalRootKey) -> Iterator[IsolatedMemory]:
    """For what pages do above the database."""
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        yield memory


@pytest.fixture
def alice(memory: IsolatedMemory) -> Person:
    remember(memory, "alice")
    remember(memory, "bob", "bobs")
    return Person(client_of(memory), "alice")


def title_of(answer: Any) -> str:
    return str(answer.text.partition("<h1>")[2].partition("</h1>")[0])


def test_every_page_opens_and_shows_what_is_remembered_and_nobody_elses(alice: Person):
    pages = dict(walked(alice))

    assert {answer.status_code for answer in pages.values()} == {200}
    said = "".join(answer.text for answer in pages.values())
    for text in (
        *("What is a half?", "One of two.", "asked look", "Plan my week.", "Likes chess.", "Go"),
        *("level", "A pupil.", "Speaks German.", "Fractions are parts.", "facts / school / key"),
        *("When?", "conversation “s”", "planner", "Only channels: web"),
    ):
        assert text in said, text
    assert "bobs" not in said


def test_somebody_of_whom_nothing_is_remembered_is_told_so(memory: IsolatedMemory):
    pages = dict(walked(Person(client_of(memory), "nobody")))

    assert {answer.status_code for answer in pages.values()} == {200}
    assert "No module remembers anything about you." in pages["/"].text


def test_what_all_modules_share_is_not_denied_where_no_module_remembers(memory: IsolatedMemory):
    memory.scope(user_id="alice", module_id="tutor").cross_module().add_fact("Speaks German.")
    first = Person(client_of(memory), "alice").get("/").text

    assert "Nothing is remembered" not in first
    assert "What all modules know together" in first


def test_all_that_is_known_is_counted_and_facts_are_not_said_to_be_more(memory: IsolatedMemory):
    profile = memory.scope(user_id="alice", module_id="tutor").profile()
    profile.add_fact("Likes chess.")
    profile.add_interest("Go")
    profile.set_attribute("level", 3)
    profile.set_summary("A pupil.")
    alice = Person(client_of(memory), "alice")

    for path in ("/", alice.path_to("tutor")):
        page = alice.get(path).text
        assert "<dt>Known about you</dt><dd>4</dd>" in page
        assert "Facts about you" not in page


def test_a_fact_is_corrected_and_forgotten(memory: IsolatedMemory, alice: Person):
    page, profile = (
        alice.path_to("tutor", "What is known"),
        memory.scope(user_id="alice", module_id="tutor").profile(),
    )
    assert alice.post(alice.form(page, "/facts/"), text="Likes Go.").status_code == 303
    assert [fact.text for fact in profile.facts()] == ["Likes Go."]
    # The form is of before: what came meanwhile is not written over.
    late = alice.post(alice.form(page, "/facts/"), text="Likes poker.", revision="0")
    assert late.status_code == 409
    assert alice.post(alice.form(page, "/facts/"), text="  ").status_code == 400
    assert [fact.text for fact in profile.facts()] == ["Likes Go."]

    for part in ("/forget", "/interests/", "/attributes/", "/summary"):
        path = alice.form(page, part)
        asked = alice.post(path).text
        assert "Forget this?" in asked
        assert ("Cancel", page) in named_links(asked)
        assert profile.contents()
        assert alice.confirm(path).status_code == 303
    assert not profile.contents()


def test_what_all_modules_know_is_forgotten_too(memory: IsolatedMemory, alice: Person):
    alice.confirm(alice.form("/m/shared/profile", "/forget"))

    assert memory.scope(user_id="alice", module_id="tutor").cross_module().facts() == []


@pytest.mark.parametrize(("name", "kind"), [("Fractions", "s"), ("Plans", "t")])
def test_a_conversation_is_renamed_taken_along_and_deleted(
    memory: IsolatedMemory, alice: Person, name: str, kind: str
):
    page = alice.path_to("tutor", "Conversations", name)
    scope = memory.scope(user_id="alice", module_id="tutor")

    renamed = alice.post(f"{page}/rename", title="Halves")
    assert renamed.headers["location"] == page
    assert title_of(alice.get(page)) == "Halves"

    exported = alice.post(f"{page}/export", form="json")
    assert exported.headers["content-disposition"] == 'attachment; filename="conversation.json"'
    said = json.loads(exported.text)
    assert said["title"] == "Halves"
    assert said["messages"][0]["data"]["content"] in ("What is a half? ", "Plan my week. ")
    markdown = alice.post(f"{page}/export", form="markdown").text
    assert markdown.startswith("# Halves\n\n## You")

    assert alice.confirm(f"{page}/delete").headers["location"].endswith("/conversations")
    assert alice.get(page).status_code == 404
    left = scope.sessions() if kind == "s" else scope.checkpointer().threads()
    assert left == []


class Deltas(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], DeltaChannel(joined)]
    log: Annotated[list[str], DeltaChannel(joined, snapshot_frequency=2)]


def test_a_thread_whose_messages_are_kept_as_deltas_is_read(memory: IsolatedMemory):
    def answer(state: Deltas) -> dict[str, Any]:
        heard = len(state["messages"])
        return {"messages": [AIMessage(f"Heard {heard}.")], "log": [f"step {heard}"]}

    scope = memory.scope(user_id="alice", module_id="tutor")
    graph = StateGraph(Deltas).add_node("answer", answer).add_edge(START, "answer").compile()
    config: Any = {"configurable": {"thread_id": "deltas"}}
    for number in range(3):
        scope.bind(graph).invoke({"messages": [HumanMessage(f"no. {number};")]}, config)
    alice = Person(client_of(memory), "alice")

    said = alice.get(alice.path_to("tutor", "Conversations", "Conversation of")).text

    texts = ["no. 0;", "Heard 1.", "no. 1;", "Heard 3.", "no. 2;", "Heard 5."]
    places = [said.index(text) for text in texts]
    assert places == sorted(places)
    for text in ("step 1", "step 3", "step 5"):
        assert text in said


def test_conversations_are_found_by_title_and_by_what_was_said(alice: Person):
    page = alice.path_to("tutor", "Conversations")
    for query, text in (("fraction", "Fractions"), ("half", "What is a half?")):
        found = alice.post(f"{page}/search", query=query)
        assert text in found.text
        link = next(
            target for _, target in named_links(found.text) if target.startswith(page + "/")
        )
        assert alice.get(link).status_code == 200
    assert alice.post(f"{page}/search", query=" ").status_code == 400


def test_many_conversations_come_in_pages(on_sqlite: IsolatedMemory):
    scope = on_sqlite.scope(user_id="alice", module_id="tutor")
    for number in range(51):
        scope.sessions.create(title=f"Title {number}")
    alice = Person(client_of(on_sqlite), "alice")
    page = alice.path_to("tutor", "Conversations")

    shown = [alice.get(f"{page}?page={number}").text for number in (1, 2)]
    assert [text.count("Title") for text in shown] == [50, 1]
    for strange in ("0", "-1", "x", "9" * 30, "\u0661"):
        assert alice.get(f"{page}?page={strange}").status_code == 200


@pytest.mark.parametrize("kind", ["session", "thread"])
def test_a_long_conversation_comes_in_pages_from_its_end(on_sqlite: IsolatedMemory, kind: str):
    scope = on_sqlite.scope(user_id="alice", module_id="tutor")
    said = [HumanMessage(f"no. {n};") for n in range(120)]
    if kind == "session":
        scope.chat_history("long").add_messages(said)
    else:
        put(scope.checkpointer(), at("long"), {"messages": said})
    alice = Person(client_of(on_sqlite), "alice")
    path = alice.path_to("tutor", "Conversations", "Conversation of")

    query = ""
    for first, last in ((70, 119), (20, 69), (0, 19)):
        text = alice.get(path + query).text
        assert [*map(int, re.findall(r"no\. (\d+);", text))] == [*range(first, last + 1)]
        links = dict(named_links(text))
        query = links.get("Earlier messages", "")
    assert query == ""
    assert links["To the newest messages"] == path
    for strange in ("-1", "x", "9" * 30, "\u0661", "1" + "0" * 15):
        assert "no. 119;" in alice.get(f"{path}?before={strange}").text
    for early in ("0", "1"):
        assert "no. 119;" not in alice.get(f"{path}?before={early}").text


def test_a_page_of_a_long_chat_reads_only_that(on_sqlite: IsolatedMemory):
    scope = on_sqlite.scope(user_id="alice", module_id="tutor")
    for begin in range(0, 4000, 500):
        said = [HumanMessage(f"{n} {'x' * 200}") for n in range(begin, begin + 500)]
        scope.chat_history("long").add_messages(said)
    alice = Person(client_of(on_sqlite), "alice")
    path = alice.path_to("tutor", "Conversations", "Conversation of")
    alice.get(path)
    tracemalloc.start()
    try:
        assert "3999 xx" in alice.get(path).text
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    # All 4,000 took 6 MB; a page of 50 takes 0.3.
    assert peak < 2_000_000


def test_what_was_said_before_login_is_confirmed(memory: IsolatedMemory):
    guest = memory.anonymous(module_id="tutor")
    guest.chat_history("first").add_user_message("I was a guest.")
    guest.profile().add_fact("Was here before.")
    memory.claim(guest.id, Scope("alice", "tutor"), confirmed=True)
    alice = Person(client_of(memory), "alice")
    page = alice.path_to("tutor", "Conversations")
    assert "not confirmed" in alice.get(page).text
    assert "Was here before." not in alice.get(alice.path_to("tutor", "What is known")).text

    alice.confirm(alice.form(alice.path_to("tutor"), "/confirm"))

    assert "Was here before." in alice.get(alice.path_to("tutor", "What is known")).text

    assert "not confirmed" not in alice.get(page).text
    assert not memory.scope(user_id="alice", module_id="tutor").sessions()[0].is_untrusted


def test_a_note_and_a_document_are_deleted(memory: IsolatedMemory, alice: Person):
    scope = memory.scope(user_id="alice", module_id="tutor")
    notes = alice.path_to("tutor", "Notes")
    assert alice.confirm(alice.form(notes, "/notes/")).headers["location"] == notes
    assert scope.store().search(()) == []

    documents = alice.path_to("tutor", "Documents", "notes")
    assert alice.confirm(alice.form(documents, "/documents/")).status_code == 303
    assert scope.collections() == []


def test_a_sharing_is_ended(memory: IsolatedMemory, alice: Person):
    path = alice.form("/sharing", "/sharing/")
    assert alice.confirm(path).headers["location"] == "/sharing"

    assert memory.grants.list(user_id="alice") == []
    assert alice.post(path).status_code == 404
    assert len(memory.grants.list(user_id="bob")) == 1


def test_it_is_told_how_long_what_is_kept(sqlite_url: str, root_key: LocalRootKey):
    rules = SessionRules(
        idle=timedelta(days=7), max_sessions=1000, channel_limits={"ai": 20}, absolute=None
    )
    with IsolatedMemory(sqlite_url, root_key=root_key, session_rules=rules) as memory:
        memory.scope(user_id="alice", module_id="tutor").sessions.create()
        memory.retention.keep("message", module_id="tutor", days=90)
        memory.retention.keep("thread", idle=timedelta(hours=36), age=timedelta(days=1))
        memory.retention.keep("checkpoint", keep_latest=1200)
        memory.retention.hold("alice", reason="Court", by="Legal")
        alice = Person(client_of(memory), "alice")
        for path in ("/kept", alice.path_to("tutor")):
            said = alice.get(path).text
            for sentence in (
                "Messages are removed after 90 days.",
                "Agent conversations are removed after 1 day",
                "and are removed when nothing was done in them for 36 hours.",
                "Earlier states of agent conversations are kept up to the newest 1,200.",
                "Chats are removed when nothing is said in them for 7 days.",
                "The newest 1,000 chats are kept, and those that are pinned.",
                "Of the channel “ai” the newest 20 messages of a chat are kept.",
            ):
                assert sentence in said
        assert "on legal hold" in alice.get("/kept").text
        assert "Court" not in alice.get("/kept").text


def test_who_looked_and_why_is_shown(database_url: str, root_key: LocalRootKey):
    audit = AuditOptions()
    with IsolatedMemory(database_url, root_key=root_key, audit=audit) as memory:
        remember(memory, "alice")
        remember(memory, "bob")
        with memory.audit.acting_as("carol"):
            memory.audit.break_glass("alice", reason="Ticket 13", minutes=5)
            with memory.audit.reading("alice", "support page", module_id="planner"):
                pass
        alice, bob = (Person(client_of(memory), name) for name in ("alice", "bob"))
        alice.confirm(alice.form("/sharing", "/sharing/"))

        said = alice.get("/accesses").text
        for text in ("carol", "Ticket 13", "May read your memory</strong>, until", "support page"):
            assert text in said
        assert "You, on these pages" in said
        assert said.count("May read your memory") == 1
        assert "carol" not in bob.get("/accesses").text
        assert memory.audit.entries(user_id="alice")[0].actor == "the user"


def test_a_long_log_comes_in_pages(sqlite_url: str, root_key: LocalRootKey):
    audit = AuditOptions()
    with IsolatedMemory(sqlite_url, root_key=root_key, audit=audit) as memory:
        memory.scope(user_id="alice", module_id="tutor").sessions.create()
        for number in range(120):
            with memory.audit.acting_as(f"no. {number};"):
                memory.retention.keep("message", user_id="alice", days=1)
        alice = Person(client_of(memory), "alice")
        first = alice.get("/accesses").text
        (link,) = (target for name, target in named_links(first) if name == "Earlier")
        second = alice.get(f"/accesses{link}").text

        assert first.count("<tr") + second.count("<tr") == 120 + 2
        assert "no. 119;" in first
        assert "no. 0;" in second
        for strange in ("x", "9" * 16, "9" * 40, "-1", "\u0663"):
            assert alice.get(f"/accesses?before={strange}").status_code == 200


@pytest.mark.parametrize("form", ["full", "mem", "something else"])
def test_everything_is_taken_along_and_no_copy_stays(
    on_sqlite: IsolatedMemory, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    remember(on_sqlite, "alice")
    remember(on_sqlite, "bob", "bobs")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    answer = Person(client_of(on_sqlite), "alice").post("/download", form=form)

    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"].startswith('attachment; filename="my-memory.')
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        whole = b"".join(archive.read(name) for name in archive.namelist())
    assert b"What is a half?" in whole
    assert b"bobs" not in whole
    assert [*tmp_path.glob("langmem-isolated-*")] == []


def test_only_so_many_archives_are_made_at_once(
    on_sqlite: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    """Whoever asks for a hundred leaves threads to those who only look."""
    monkeypatch.setattr(pages, "SECONDS", 0.01)
    remember(on_sqlite, "alice")
    alice = Person(client_of(on_sqlite), "alice")
    with ExitStack() as stack:
        for _ in range(taking_along._AT_ONCE):
            stack.enter_context(taking_along._making)
        assert alice.post("/download").status_code == 503
        assert alice.get("/").status_code == 200

    assert alice.post("/download").status_code == 200


def test_what_a_killed_process_left_of_an_archive_goes_with_the_next(
    on_sqlite: IsolatedMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    remember(on_sqlite, "alice")
    # The last one is an operator's.
    begin = "langmem-isolated-download-"
    left, new, others = (tmp_path / n for n in (f"{begin}a", f"{begin}b", "langmem-isolated-c"))
    for folder in (left, new, others):
        folder.mkdir()
        (folder / "my-memory.zip").write_text("What is a half?")
    for folder in (left, others):
        os.utime(folder, (1, 1))
    (tmp_path / f"{begin}link").symlink_to(others)

    assert Person(client_of(on_sqlite), "alice").post("/download").status_code == 200

    assert not left.exists()
    assert (new / "my-memory.zip").exists()
    assert (others / "my-memory.zip").exists()


def test_forgetting_everything_takes_the_sentence(memory: IsolatedMemory, alice: Person):
    for sentence in ("", "yes", "forget everything", "confirmed"):
        refused = alice.post("/forget", sentence=sentence, confirmed="yes")
        assert refused.status_code == 400
        assert "Nothing was removed." in refused.text
    assert memory.modules("alice") == ["planner", "tutor"]
    scope = memory.scope(user_id="alice", module_id="tutor")
    history = scope.chat_history("s")
    history.add_user_message("last")

    answer = alice.post("/forget", sentence=" Forget  everything about me ")

    assert title_of(answer) == "You are forgotten"
    assert "Keys destroyed:" in answer.text
    assert memory.modules("alice") == []
    with pytest.raises(KeyDestroyed):
        history.add_user_message("more")
    assert memory.modules("bob") == ["plannerbobs", "tutor"]
    assert alice.get("/").status_code == 200


def test_forgetting_one_module_takes_the_sentence(memory: IsolatedMemory, alice: Person):
    page = alice.path_to("tutor")
    assert title_of(alice.post(f"{page}/forget")) == "Forget all of “tutor”"
    assert alice.post(f"{page}/forget", sentence="yes").status_code == 400

    answer = alice.post(f"{page}/forget", sentence="forget this module")

    assert "message: 3" in answer.text
    scope = memory.scope(user_id="alice", module_id="tutor")
    assert (scope.overview().messages, scope.module("planner").overview().messages) == (0, 1)


def test_a_legal_hold_is_told_and_nothing_is_removed(memory: IsolatedMemory, alice: Person):
    memory.retention.hold("alice", reason="Court", by="Legal")
    page = alice.path_to("tutor")
    for answer in (
        alice.post("/forget", sentence="forget everything about me"),
        alice.post(f"{page}/forget", sentence="forget this module"),
    ):
        assert answer.status_code == 409
        assert "Your memory is on legal hold" in answer.text
        assert "memory.retention" not in answer.text
    assert memory.scope(user_id="alice", module_id="tutor").overview().messages == 3


def test_memory_is_locked_opened_for_a_while_and_given_back(on_sqlite: IsolatedMemory):
    memory = on_sqlite
    remember(memory, "alice")
    alice = Person(client_of(memory), "alice")
    history = memory.scope(user_id="alice", module_id="tutor").chat_history("s")
    for wrong in ({"new": "short", "again": "short"}, {"new": PASSPHRASE, "again": "another"}):
        assert alice.post("/lock", **wrong).status_code == 409
    assert not memory.lock_state("alice").has_lock
    conversation = alice.path_to("tutor", "Conversations", "Fractions")

    made = alice.post("/lock", new=PASSPHRASE, again=PASSPHRASE)
    code = made.text.partition("<code>")[2].partition("</code>")[0]
    assert PASSPHRASE not in made.text
    with pytest.raises(MemoryLocked):
        _ = history.messages

    # Locked, pages count, and ask for the passphrase.
    assert "only what is counted is shown" in alice.get("/").text
    pages = dict(walked(alice))
    assert {answer.status_code for answer in pages.values()} == {200, 423}
    for answer in (
        alice.get(conversation),
        alice.post("/download"),
        alice.get("/m/shared/profile"),
    ):
        assert answer.status_code == 423
        assert "/lock/open" in [path for path, _ in forms_of(answer.text)]
        assert "half" not in answer.text

    wrong = alice.post("/lock/open", passphrase="wrong horse battery", minutes="5")
    assert wrong.status_code == 409
    assert "does not open" in wrong.text
    assert alice.post("/lock/open", minutes="5").status_code == 400
    assert alice.post("/lock/open", recovery="AAAA").status_code == 409
    assert memory.lock_state("alice").is_locked

    assert alice.post("/lock/open", passphrase=PASSPHRASE, minutes="60").status_code == 303
    assert 3500 < memory.lock_state("alice").seconds_left <= 3600
    assert "for 60 more minutes" in alice.get("/").text
    assert "What is a half?" in alice.get(conversation).text
    assert alice.post("/lock/close").status_code == 303
    assert memory.lock_state("alice").is_locked

    # A number of minutes that nobody offered is the shortest.
    assert alice.post("/lock/open", recovery=code, minutes="999999").status_code == 303
    assert memory.lock_state("alice").seconds_left <= 300
    new = {"new": "another passphrase", "again": "another passphrase"}
    changed = alice.post("/lock/change", recovery=code, **new)
    assert "<code>" in changed.text
    assert alice.post("/lock/remove", passphrase=PASSPHRASE).status_code == 409
    assert alice.post("/lock/remove", passphrase=new["new"]).status_code == 303
    assert not memory.lock_state("alice").has_lock
    assert len(history.messages) == 3


def test_damaged_messages_are_told_and_not_shown(
    memory: IsolatedMemory, alice: Person, attacker: Callable[..., Any]
):
    conversation = alice.path_to("tutor", "Conversations", "Fractions")
    attacker("UPDATE records SET sealed = substr(sealed, 1, 40)")

    answer = alice.get(conversation)

    assert answer.status_code == 409
    assert "does not open" in answer.text


def test_below_another_application_every_address_begins_with_where_it_is_mounted(
    on_sqlite: IsolatedMemory,
):
    remember(on_sqlite, "alice")
    app = Starlette(routes=[Mount("/my/memory", memory_app(on_sqlite, scope_of=scope_of_header))])
    alice = Person(TestClient(app, follow_redirects=False), "alice", "/my/memory")
    pages = dict(walked(alice, "/my/memory/"))

    assert {answer.status_code for answer in pages.values()} == {200}
    assert len(pages) > 15
    for answer in pages.values():
        addresses = [*links_of(answer.text), *(path for path, _ in forms_of(answer.text))]
        assert all(one.startswith(("/my/memory/", "?")) for one in addresses)
    ended = alice.confirm(alice.form("/my/memory/sharing", "/sharing/"))
    assert ended.headers["location"] == "/my/memory/sharing"


def test_only_so_many_passphrases_are_stretched_at_once(
    on_sqlite: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    """64 MiB each: whoever sends a hundred at once gets no 6 GB of this process."""
    monkeypatch.setattr(pages, "SECONDS", 0.01)
    remember(on_sqlite, "alice")
    alice = Person(client_of(on_sqlite), "alice")
    alice.post("/lock", new=PASSPHRASE, again=PASSPHRASE)
    taken = [locks._opening.acquire() for _ in range(locks._AT_ONCE)]
    try:
        answer = alice.post("/lock/open", passphrase=PASSPHRASE)
    finally:
        for _ in taken:
            locks._opening.release()

    assert answer.status_code == 503
    assert on_sqlite.lock_state("alice").is_locked
    assert alice.post("/lock/open", passphrase=PASSPHRASE).status_code == 303


def test_who_has_lost_both_secrets_can_still_forget_everything(on_sqlite: IsolatedMemory):
    remember(on_sqlite, "alice")
    on_sqlite.lock_with("alice", secret=bytes(32))
    alice = Person(client_of(on_sqlite), "alice")

    answer = alice.post("/forget", sentence="forget everything about me")

    assert title_of(answer) == "You are forgotten"
    assert on_sqlite.modules("alice") == []
    assert not on_sqlite.lock_state("alice").has_lock
