"""A profile keeps what one module knows of a user: typed, bounded, and no change of others lost."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from langmem_isolated import (
    IsolatedMemory,
    LangmemIsolatedError,
    Limits,
    LocalRootKey,
    ScopedMemory,
)
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated.errors import (
    KeyDestroyed,
    LimitExceeded,
    RecordDoesNotOpen,
    ScopeError,
    ValueNotStorable,
)
from langmem_isolated.lifecycle import Profile, ProfileEntryChanged, ProfileEntryNotFound
from tests.conftest import Attacker, Door
from tests.processes import Child

CANARY = "canary-4711"
PROFILE = int(Kind.PROFILE)


@pytest.fixture
def tutor(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="alice", module_id="tutor")


@pytest.fixture
def profile(tutor: ScopedMemory) -> Profile:
    return tutor.profile()


def texts(profile: Profile) -> list[str]:
    return [fact.text for fact in profile.facts()]


async def test_a_fact_has_its_text_its_source_and_its_time(profile: Profile, door: Door):
    time = datetime(2026, 5, 1, 12, tzinfo=UTC)

    added = await door(
        profile, "add_fact", "Has a test.", source="user", session_id="monday", message_id="m1",
        time=time,
    )  # fmt: skip

    (fact,) = await door(profile, "facts")
    assert fact == added
    assert (fact.text, fact.time, fact.revision) == ("Has a test.", time, 0)
    (source,) = fact.sources
    assert (source.kind, source.session_id, source.message_id) == ("user", "monday", "m1")
    assert (source.module_id, source.time) == ("tutor", time)
    assert fact.updated > time


async def test_everything_is_read_at_once(profile: Profile, door: Door):
    assert not await door(profile, "contents")

    await door(profile, "add_facts", ["Likes chess.", "Has a test.", "likes  CHESS."])
    await door(profile, "add_interest", "Chess")
    await door(profile, "add_interest", "go")
    await door(profile, "add_interest", "GO")
    await door(profile, "set_attribute", "level", {"maths": [3, None, 1.5, "x"]})
    await door(profile, "set_summary", "A keen learner.")

    found = await door(profile, "contents")
    assert [fact.text for fact in found.facts] == ["Likes chess.", "Has a test."]
    assert [(one.name, one.mentions) for one in found.interests] == [("go", 2), ("Chess", 1)]
    assert found.attributes == {"level": {"maths": [3, None, 1.5, "x"]}}
    assert found.summary == await door(profile, "summary") == "A keen learner."
    assert await door(profile, "attributes") == found.attributes
    assert tuple(await door(profile, "interests")) == found.interests


async def test_what_says_the_same_becomes_another_source_of_one_fact(profile: Profile, door: Door):
    first = await door(profile, "add_fact", "Likes chess.", session_id="monday")

    again = await door(profile, "add_fact", " likes\tCHESS. ", source="user", session_id="tuesday")

    assert (again.id, again.text, again.revision) == (first.id, "Likes chess.", 1)
    assert [source.session_id for source in again.sources] == ["monday", "tuesday"]
    assert await door(profile, "facts") == [again]


def test_a_fact_keeps_its_first_source_and_the_newest_others(profile: Profile):
    for number in range(20):
        fact = profile.add_fact("Likes chess.", session_id=str(number))

    assert [s.session_id for s in fact.sources] == ["0", *map(str, range(13, 20))]


async def test_a_fact_is_corrected_and_removed(profile: Profile, door: Door):
    fact = await door(profile, "add_fact", "Has a test on Friday.")

    corrected = await door(profile, "correct", fact, "Has a test on Monday.")
    assert (corrected.id, corrected.time, corrected.sources) == (fact.id, fact.time, fact.sources)
    assert await door(profile, "facts") == [corrected]
    assert (await door(profile, "add_fact", "has a test on monday.")).id == fact.id
    assert (await door(profile, "add_fact", "Has a test on Friday.")).id != fact.id

    await door(profile, "remove", fact.id)
    assert texts(profile) == ["Has a test on Friday."]


async def test_a_correction_of_what_another_has_changed_is_refused(profile: Profile, door: Door):
    read = await door(profile, "add_fact", "Has a test on Friday.")
    await door(profile, "correct", read, "Has a test on Monday.")

    with pytest.raises(ProfileEntryChanged):
        await door(profile, "correct", read, "Has a test on Sunday.")
    assert texts(profile) == ["Has a test on Monday."]

    await door(profile, "correct", read.id, "Has a test on Sunday.")
    assert texts(profile) == ["Has a test on Sunday."]


async def test_two_facts_become_one_with_the_sources_of_both(profile: Profile, door: Door):
    one = await door(profile, "add_fact", "Plays chess.", session_id="monday")
    two = await door(profile, "add_fact", "Plays chess on Sundays.", session_id="tuesday")

    merged = await door(profile, "merge", two, one.id, text="Plays chess, on Sundays.")

    assert await door(profile, "facts") == [merged]
    assert (merged.id, merged.time, merged.text) == (two.id, one.time, "Plays chess, on Sundays.")
    assert [source.session_id for source in merged.sources] == ["monday", "tuesday"]


def test_a_merge_of_which_one_fact_is_gone_changes_nothing(profile: Profile):
    one, two = profile.add_facts(["one", "two"])
    profile.remove(two)

    with pytest.raises(ProfileEntryNotFound):
        profile.merge(one, two)

    assert profile.facts() == [one]


async def test_facts_that_corrections_made_alike_are_folded(profile: Profile, door: Door):
    one, two, three = await door(profile, "add_facts", ["one", "two", "three"])
    await door(profile, "correct", two, "ONE")

    assert await door(profile, "fold_duplicates") == 1

    folded, other = await door(profile, "facts")
    assert (folded.id, folded.text, other) == (one.id, "one", three)
    assert await door(profile, "fold_duplicates") == 0


async def test_interests_attributes_and_the_summary_are_removed(profile: Profile, door: Door):
    await door(profile, "add_interest", "Chess")
    await door(profile, "set_attribute", "level", 3)
    await door(profile, "set_summary", "Keen.")

    await door(profile, "remove_interest", "CHESS")
    await door(profile, "remove_attribute", "level")
    await door(profile, "set_summary", None)
    await door(profile, "set_summary", None)

    assert not await door(profile, "contents")
    for remove in ("remove_interest", "remove_attribute"):
        with pytest.raises(ProfileEntryNotFound):
            await door(profile, remove, "level")


@pytest.mark.parametrize(
    "call",
    [
        lambda p: p.remove("0" * 16),
        lambda p: p.remove("%"),
        lambda p: p.correct("0" * 16, "x"),
        lambda p: p.merge("0" * 16, "1" * 16),
        lambda p: p.remove_interest("x"),
        lambda p: p.remove_attribute("x"),
    ],
)
@pytest.mark.parametrize("is_begun", [False, True])
def test_what_is_not_there_is_refused_and_no_scope_is_made_for_it(
    memory: IsolatedMemory, call: Callable[[Profile], Any], is_begun: bool
):
    scope = memory.scope(user_id="alice", module_id="tutor")
    if is_begun:
        scope.profile().set_summary("Keen.")

    with pytest.raises(ProfileEntryNotFound) as refusal:
        call(scope.profile())

    assert isinstance(refusal.value, KeyError)
    assert isinstance(refusal.value, LangmemIsolatedError)
    assert memory.modules(user_id="alice") == (["tutor"] if is_begun else [])


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (ValueNotStorable, lambda p: p.add_fact(b"bytes")),
        (ValueError, lambda p: p.add_fact(" \n")),
        (ScopeError, lambda p: p.add_fact("x", source="")),
        (ScopeError, lambda p: p.add_fact("x", session_id="a\x00b")),
        (ValueError, lambda p: p.add_fact("x", time=datetime(2026, 1, 1))),  # noqa: DTZ001
        (TypeError, lambda p: p.add_fact("x", time=5)),
        (TypeError, lambda p: p.add_facts("one text")),
        (ValueNotStorable, lambda p: p.add_facts(["good", 7])),
        (ValueError, lambda p: p.merge("0" * 16)),
        (TypeError, lambda p: p.remove(7)),
        (ScopeError, lambda p: p.set_attribute("", 1)),
        (ValueNotStorable, lambda p: p.set_attribute("x", {1, 2})),
        (ValueNotStorable, lambda p: p.set_attribute("x", (1, 2))),
        (ValueNotStorable, lambda p: p.set_attribute("x", {1: 2})),
        (ValueNotStorable, lambda p: p.set_attribute("x", float("nan"))),
        (ValueNotStorable, lambda p: p.update_attribute("x", lambda _: object())),
        (ValueError, lambda p: p.set_summary("")),
        (ValueNotStorable, lambda p: p.add_interest(None)),
    ],
)
def test_bad_input_is_refused_without_its_content_and_loses_nothing(
    profile: Profile, error: type[Exception], call: Callable[[Any], Any]
):
    profile.add_fact("Likes chess.")
    before = profile.contents()

    with pytest.raises(error) as refusal:
        call(profile)

    assert profile.contents() == before
    assert "one text" not in str(refusal.value)
    assert len(str(refusal.value)) > 40


def test_what_is_beyond_the_limits_is_refused_and_the_rest_stays(
    database_url: str, root_key: LocalRootKey
):
    limits = Limits(profile_entries=3, profile_bytes=200)
    with IsolatedMemory(database_url, root_key=root_key, limits=limits) as memory:
        profile = memory.scope(user_id="alice", module_id="tutor").profile()
        profile.add_facts(["one", "ONE", "two"])
        profile.set_attribute("level", 3)
        before = profile.contents()
        for call in (
            lambda: profile.add_fact("three"),
            lambda: profile.add_facts(["one", "three"]),
            lambda: profile.add_interest("Chess"),
            lambda: profile.set_attribute("other", 3),
            lambda: profile.set_attribute("level", "x" * 300),
            lambda: profile.correct(before.facts[0], "x" * 300),
            lambda: profile.set_summary("x" * 300),
        ):
            with pytest.raises(LimitExceeded):
                call()
        assert profile.contents() == before
        profile.set_attribute("level", 4)
        profile.add_fact("Two")
        profile.set_summary("Keen.")


def test_a_repr_shows_no_content(profile: Profile):
    fact = profile.add_fact(CANARY, source=CANARY, session_id=CANARY, message_id=CANARY)
    profile.set_attribute(CANARY, CANARY)
    profile.set_summary(CANARY)
    interest = profile.add_interest(CANARY)

    shown = repr([profile, fact, fact.sources, interest, profile.contents(), profile.clear()])

    assert CANARY not in shown
    assert "alice" not in shown


def test_two_modules_know_two_things_of_one_user(memory: IsolatedMemory, tutor: ScopedMemory):
    planner = tutor.module("planner")
    tutor.profile().add_fact("Likes chess.")
    tutor.profile().set_summary("A keen learner.")
    planner.profile().add_fact("Works on Sundays.")

    assert texts(tutor.profile()) == ["Likes chess."]
    assert texts(planner.profile()) == ["Works on Sundays."]
    assert planner.profile().summary() is None
    for other in (
        memory.scope(user_id="bob", module_id="tutor"),
        memory.scope(user_id="alice", module_id="tutor", project_id="other"),
    ):
        assert not other.profile().contents()
        assert not other.cross_module().contents()


async def test_a_notebook_is_one_for_all_modules_of_a_user_in_a_project(
    memory: IsolatedMemory, tutor: ScopedMemory, door: Door
):
    planner = tutor.module("planner")
    tutor.profile().add_fact("Only the tutor knows.")
    assert not await door(planner.cross_module(), "contents")

    await door(tutor.cross_module(), "add_fact", "Prefers short answers.")
    await door(planner.cross_module(), "set_attribute", "language", "de")
    shared = await door(planner.cross_module(), "add_fact", "prefers short answers.")

    assert await door(tutor.cross_module(), "facts") == [shared]
    assert [source.module_id for source in shared.sources] == ["tutor", "planner"]
    assert await door(tutor.cross_module(), "attributes") == {"language": "de"}
    assert texts(tutor.profile()) == ["Only the tutor knows."]
    assert memory.modules(user_id="alice") == ["tutor"]


async def test_a_profile_is_cleared_with_its_counts_and_nothing_else_is(
    tutor: ScopedMemory, door: Door
):
    profile = tutor.profile()
    tutor.chat_history("monday").add_user_message("Hi")
    tutor.byte_store().mset([("facts", b"1")])
    tutor.cross_module().add_fact("Shared.")
    profile.add_facts(["one", "two"])
    profile.add_interest("Chess")
    profile.set_summary("Keen.")

    cleared = await door(profile, "clear")

    assert (cleared.facts, cleared.interests, cleared.attributes, cleared.summaries) == (2, 1, 0, 1)
    assert not await door(profile, "contents")
    assert (await door(profile, "clear")).facts == 0
    assert texts(tutor.cross_module()) == ["Shared."]
    assert tutor.byte_store().mget(["facts"]) == [b"1"]
    assert tutor.verify().messages == 1


def test_writers_at_once_lose_nothing_and_make_no_duplicate(tutor: ScopedMemory):
    start = threading.Barrier(6)

    def write(number: int) -> None:
        profile = tutor.profile()
        start.wait()
        for step in range(5):
            profile.add_fact(f"fact {number} {step}")
            profile.add_fact("All know this.", session_id=f"{number} {step}")
            profile.update_attribute("writes", lambda count: (count or 0) + 1)
            profile.add_interest("Chess")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))

    found = tutor.profile().contents()
    assert len(found.facts) == 31
    assert found.attributes == {"writes": 30}
    assert [one.mentions for one in found.interests] == [30]
    (shared,) = [fact for fact in found.facts if fact.text == "All know this."]
    assert shared.revision == 29


def test_writers_at_once_do_not_pass_the_bound_together(database_url: str, root_key: LocalRootKey):
    limits = Limits(profile_entries=10)
    with IsolatedMemory(database_url, root_key=root_key, limits=limits) as memory:
        profile = memory.scope(user_id="alice", module_id="tutor").profile()

        def write(number: int) -> bool:
            try:
                profile.add_fact(f"fact {number}")
            except LimitExceeded:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            stored = list(pool.map(write, range(24)))

        assert sum(stored) == len(profile.facts()) == 10


def test_a_correction_and_a_removal_at_once_do_not_bring_a_fact_back(tutor: ScopedMemory):
    profile = tutor.profile()
    for _ in range(20):
        fact = profile.add_fact("Has a test.")
        with ThreadPoolExecutor(2) as pool:
            corrected = pool.submit(profile.correct, fact, "Has no test.")
            pool.submit(profile.remove, fact).result()
        assert corrected.exception() is None or isinstance(
            corrected.exception(), ProfileEntryNotFound
        )
        assert profile.facts() == []


def add_facts(url: str, number: int) -> None:
    with IsolatedMemory(url, root_key=LocalRootKey(bytes(range(32)))) as memory:
        profile = memory.scope(user_id="alice", module_id="tutor").profile()
        for step in range(10):
            profile.add_fact(f"fact {number} {step}")
            profile.add_fact("All know this.")


def test_processes_at_once_lose_nothing(database_url: str, tutor: ScopedMemory):
    children = [Child(add_facts, database_url, number) for number in range(2)]
    for child in children:
        child.result()

    assert len(tutor.profile().facts()) == 21


async def test_a_cancelled_write_is_whole_or_absent(profile: Profile):
    adding = asyncio.create_task(profile.aadd_facts([f"fact {n}" for n in range(50)]))
    await asyncio.sleep(0.001)
    adding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adding

    profile.add_fact("Behind it.")
    assert len(profile.facts()) in (1, 51)


def test_a_fact_that_was_moved_or_changed_is_refused_and_can_be_removed(
    profile: Profile, tutor: ScopedMemory, attacker: Attacker
):
    one, two = profile.add_facts(["one", "two"])
    rows = attacker("SELECT key, sealed FROM records WHERE kind = ? ORDER BY key", PROFILE)
    (key, _), (_, sealed) = rows
    attacker("UPDATE records SET sealed = ? WHERE kind = ? AND key = ?", sealed, PROFILE, key)

    for call in (profile.facts, profile.contents, tutor.verify, profile.fold_duplicates):
        with pytest.raises(RecordDoesNotOpen):
            call()

    damaged = next(f for f in (one, two) if _does_not_open(profile, f))
    profile.remove(damaged)
    assert len(profile.facts()) == 1
    tutor.verify()


def _does_not_open(profile: Profile, fact: Any) -> bool:
    try:
        profile.correct(fact, fact.text)
    except RecordDoesNotOpen:
        return True
    return False


def test_a_row_of_another_users_profile_does_not_open_here(
    memory: IsolatedMemory, profile: Profile, attacker: Attacker
):
    profile.add_fact("alice's")
    bob = memory.scope(user_id="bob", module_id="tutor").profile()
    bob.add_fact("bob's")
    ids = [one._records.keys().scope_id for one in (profile, bob)]
    ((there, other),) = attacker("SELECT scope_id, parent FROM records WHERE scope_id = ?", ids[1])
    attacker(
        "UPDATE records SET scope_id = ?, parent = ? WHERE scope_id = ? AND kind = ?",
        there, other, ids[0], PROFILE,
    )  # fmt: skip

    assert profile.facts() == []
    with pytest.raises(RecordDoesNotOpen):
        bob.facts()
    assert bob.clear().facts == 2


def test_a_profile_of_a_scope_that_was_erased_writes_nothing(
    memory: IsolatedMemory, tutor: ScopedMemory, attacker: Attacker
):
    profile = tutor.profile()
    profile.add_fact("one")
    attacker("DELETE FROM records")
    attacker("DELETE FROM scopes")

    with pytest.raises(KeyDestroyed):
        profile.add_fact("two")

    assert attacker("SELECT count(*) FROM records") == [(0,)]


def test_nothing_of_a_profile_is_readable_on_disk(sqlite_url: str, root_key: LocalRootKey):
    with IsolatedMemory(sqlite_url, root_key=root_key, compress=False) as memory:
        scope = memory.scope(user_id=f"u{CANARY}", module_id=f"m{CANARY}")
        for profile in (scope.profile(), scope.cross_module()):
            profile.add_fact(CANARY, source=CANARY, session_id=CANARY, message_id=CANARY)
            profile.add_interest(CANARY)
            profile.set_attribute(CANARY, {CANARY: CANARY})
            profile.set_summary(CANARY)
        path = sqlite_url.removeprefix("sqlite:///")
        for suffix in ("", "-wal"):
            with open(path + suffix, "rb") as file:  # noqa: PTH123
                assert CANARY.encode() not in file.read()
