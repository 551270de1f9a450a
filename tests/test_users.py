"""Users: who has memory, by digests, page by page, with how much; and who a digest stands for."""

from typing import Any

import pytest

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated.errors import DatabaseError
from tests.conftest import Door
from tests.test_statistics import store_everything, tutor_of


async def test_users_are_listed_by_digest_with_what_they_have_in_all_modules(
    memory: IsolatedMemory, door: Door
):
    alice = tutor_of(memory, "alice")
    store_everything(alice)
    alice.module("planner").chat_history("plans").add_user_message("Hi")
    alice.cross_module().add_fact("Likes tea.")

    [user] = await door(memory, "users")

    assert user.digest == await door(memory, "user_digest", "alice")
    assert (user.project_id, user.modules) == ("default", 2)
    assert (user.totals.sessions, user.totals.messages) == (2, 3)
    assert (user.totals.threads, user.totals.items, user.totals.documents) == (1, 1, 3)
    assert user.totals.bytes == memory.stats().total.bytes
    assert user.totals.last_activity == memory.stats().total.last_activity
    assert "alice" not in repr(user)


async def test_pages_have_everybody_once_and_guests_are_nobody(memory: IsolatedMemory, door: Door):
    for number in range(7):
        tutor_of(memory, f"u{number}").chat_history("s").add_user_message("Hi")
    memory.anonymous(module_id="tutor").chat_history("s").add_user_message("Hi")
    found: list[str] = []
    while page := await door(memory, "users", limit=3, after=found[-1] if found else None):
        assert len(page) <= 3
        found += [user.digest for user in page]

    assert found == sorted(found)
    assert set(found) == {memory.user_digest(f"u{number}") for number in range(7)}


async def test_one_id_in_two_projects_is_two_users(memory: IsolatedMemory, door: Door):
    for project in ("red", "blue"):
        tutor_of(memory, "alice", project).chat_history("s").add_user_message("Hi")
    [red] = await door(memory, "users", project_id="red")

    assert red.project_id == "red"
    assert len(await door(memory, "users")) == 2
    assert await door(memory, "users", project_id="green") == []
    assert memory.user_digest("alice", project_id="red") == red.digest
    assert memory.user_digest("alice") is None
    named = await door(memory, "find_user", red.digest)
    assert (named.user_id, named.project_id) == ("alice", "red")
    assert "alice" not in repr(named)


async def test_who_was_erased_is_not_found_and_nobody_is_in_an_empty_memory(
    memory: IsolatedMemory, door: Door
):
    assert await door(memory, "users") == []
    assert await door(memory, "user_digest", "alice") is None
    assert await door(memory, "find_user", "00" * 16) is None
    tutor_of(memory, "alice").chat_history("s").add_user_message("Hi")
    digest = memory.user_digest("alice")
    assert digest is not None
    memory.erase_user("alice")

    assert await door(memory, "users") == []
    assert await door(memory, "find_user", digest) is None


@pytest.mark.parametrize(
    ("named", "error", "text"),
    [
        ({"limit": 0}, ValueError, "limit"),
        ({"limit": 1001}, ValueError, "limit"),
        ({"limit": "5"}, TypeError, "limit"),
        ({"after": "alice"}, ValueError, "32 hexadecimal digits, got a text of 5"),
        ({"after": 7}, TypeError, "after"),
    ],
)
def test_a_page_that_cannot_be_is_refused(
    memory: IsolatedMemory, named: dict[str, Any], error: type, text: str
):
    with pytest.raises(error, match=text) as caught:
        memory.users(**named)
    assert "alice" not in str(caught.value)


async def test_a_memory_that_answers_is_pinged_and_a_closed_one_is_not(
    sqlite_url: str, root_key: LocalRootKey, door: Door
):
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        assert await door(memory, "ping") is None
        assert await door(memory, "row_level_security") is None
    with pytest.raises(DatabaseError):
        memory.ping()
