"""A key service that does not answer: what is at hand goes on, then it is said, nothing is lost."""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from langmem_isolated import IsolatedMemory, LocalRootKey, Scope
from langmem_isolated._crypto.owners import Owner
from langmem_isolated._database.database import Database
from langmem_isolated._storage.keyring import Keyring
from langmem_isolated.errors import KeyServiceUnavailable, RootKeyUnavailable
from tests.conftest import ROOT_KEY, Door
from tests.test_keyring import Clock

MINUTE = 60.0


class Service(LocalRootKey):
    """A key service that can be down, or say no; and counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__(ROOT_KEY)
        self.answer: Callable[[], None] = lambda: None
        self.calls = 0

    def down(self) -> None:
        def answer() -> None:
            raise KeyServiceUnavailable("The service", "Timeout")

        self.answer = answer

    def disabled(self) -> None:
        def answer() -> None:
            raise RootKeyUnavailable("The service", "Disabled", "Enable it.")

        self.answer = answer

    def up(self) -> None:
        self.answer = lambda: None

    def wrap(self, key: bytes, context: bytes) -> bytes:
        self.calls += 1
        self.answer()
        return super().wrap(key, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        self.calls += 1
        self.answer()
        return super().unwrap(wrapped, context)


def timed_memory(url: str, service: Service, clock: Clock, seconds: float) -> IsolatedMemory:
    """A memory that looks at ``clock``: both its caches of keys are of its keyring."""
    memory = IsolatedMemory(url, root_key=service, key_cache_seconds=seconds)
    memory._keyring = Keyring(memory._database, service, cache_seconds=seconds, clock=clock)
    memory._context = memory._context._replace(keyring=memory._keyring)
    return memory


def history(memory: IsolatedMemory, user: str) -> Any:
    return memory.scope(user_id=user, module_id="tutor").chat_history("monday")


def owner(user: str) -> Owner:
    return Owner.private(Scope(user, "tutor"))


@pytest.fixture
def ring(sqlite_url: str) -> Iterator[Callable[[float], tuple[Keyring, Service, Clock]]]:
    database = Database(sqlite_url)

    def made(seconds: float) -> tuple[Keyring, Service, Clock]:
        service, clock = Service(), Clock()
        return Keyring(database, service, cache_seconds=seconds, clock=clock), service, clock

    yield made
    database.close()


def test_where_users_come_and_go_an_outage_of_less_than_half_the_time_is_never_noticed(ring):
    for begin in range(0, 300, 60):
        keyring, service, clock = ring(300)
        for number in range(1 + begin // 20):
            clock.now += 20
            keyring.obtain(owner(f"{begin} {number} before"))
        service.down()
        for second in range(0, 120, 8):
            clock.now += 8
            keyring.obtain(owner(f"{begin} {second}"))
        service.up()
        clock.now += 4
        keyring.obtain(owner("last"))


def test_what_is_at_hand_goes_on_for_its_time_and_then_it_is_said_why_nothing_opens(ring):
    keyring, service, clock = ring(300)
    keyring.obtain(owner("alice"))
    service.down()

    clock.now += 299
    assert keyring.find(owner("alice"))
    assert keyring.obtain(owner("new"))
    clock.now += 2
    with pytest.raises(
        KeyServiceUnavailable, match=r"does not answer \(Timeout\).*Nothing was wri"
    ):
        keyring.find(owner("alice"))
    service.up()
    clock.now += 2
    assert keyring.find(owner("alice"))


def test_a_service_that_does_not_answer_is_asked_once_in_a_second_not_once_a_call(ring):
    keyring, service, clock = ring(10)
    keyring.obtain(owner("alice"))
    clock.now += 11
    service.down()
    service.calls = 0

    for _ in range(500):
        with pytest.raises(KeyServiceUnavailable):
            keyring.find(owner("alice"))
        clock.now += 0.01

    assert 4 <= service.calls <= 6


def test_threads_that_come_together_ask_once(ring):
    keyring, service, clock = ring(10)
    keyring.obtain(owner("alice"))
    service.calls = 0
    clock.now += 11

    waiting = threading.Barrier(8)

    def find() -> None:
        waiting.wait()
        keyring.find(owner("alice"))

    threads = [threading.Thread(target=find) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert service.calls == 1


def test_a_key_that_is_disabled_opens_nothing_more_at_the_latest_when_the_time_is_over(ring):
    keyring, service, clock = ring(300)
    keyring.obtain(owner("alice"))
    service.disabled()

    assert keyring.find(owner("alice"))
    clock.now += 301
    with pytest.raises(RootKeyUnavailable, match=r"Disabled.*Enable it"):
        keyring.find(owner("alice"))


def test_a_service_that_is_down_while_it_is_tried_is_not_taken_for_one_that_refuses(ring):
    """The trial with a wrong context must end in a refusal: an outage is none."""
    keyring, service, _ = ring(10)

    def answer() -> None:
        if service.calls == 3:
            raise KeyServiceUnavailable("The service", "Timeout")

    service.answer = answer
    with pytest.raises(KeyServiceUnavailable):
        keyring.obtain(owner("alice"))
    assert not keyring._root_keys.primary._is_tried


@pytest.mark.parametrize("cache_minutes", [5, 25])
async def test_ten_minutes_without_the_service_under_load_lose_nothing(
    database_url: str, door: Door, cache_minutes: int
):
    service, clock = Service(), Clock()
    acknowledged: dict[str, list[str]] = {}
    refused: list[float] = []
    memory = timed_memory(database_url, service, clock, cache_minutes * MINUTE)

    async def load(step: int) -> None:
        for user in ("alice", "bob", f"new {step}"):
            text = f"{user} {step}"
            try:
                await door(history(memory, user), "add_messages", [HumanMessage(text)])
            except KeyServiceUnavailable:
                refused.append(clock.now)
            else:
                acknowledged.setdefault(user, []).append(text)
            with suppress(KeyServiceUnavailable):
                heard = await door(history(memory, user), "messages")
                assert [m.content for m in heard] == acknowledged.get(user, [])

    with memory:
        for step in range(60):
            if step == 10:
                service.down()
            if step == 40:  # ten minutes later
                service.up()
            await load(step)
            clock.now += 20

        assert bool(refused) == (cache_minutes == 5)
        # Whoever is new is refused from the end of the time on, and nobody behind the outage.
        assert all(1000 + 5 * MINUTE < moment < 1000 + 40 * 20 for moment in refused)
        for user, texts in acknowledged.items():
            assert [m.content for m in history(memory, user).messages] == texts
    with IsolatedMemory(database_url, root_key=LocalRootKey(ROOT_KEY)) as fresh:
        for user, texts in acknowledged.items():
            assert [m.content for m in history(fresh, user).messages] == texts


def test_while_one_thread_waits_for_the_service_others_go_on_with_what_is_kept(ring):
    keyring, service, clock = ring(300)
    keyring.obtain(owner("alice"))
    asked, answered = threading.Event(), threading.Event()

    def answer() -> None:
        asked.set()
        assert answered.wait(60)

    service.answer = answer
    clock.now += 200
    waiting = threading.Thread(target=keyring.obtain, args=(owner("bob"),))
    waiting.start()
    assert asked.wait(60)

    for number in range(10):
        keyring.obtain(owner(f"user {number}"))
    assert waiting.is_alive()
    answered.set()
    waiting.join()
    assert service.calls == 7
