"""A memory on each database that a whole file of tests shares, each test with a user of its own."""

import itertools
from collections.abc import Iterator

import pytest

from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory
from tests.conftest import ROOT_KEY, new_postgres_url

_numbers = itertools.count()


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def lasting_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database of either kind: to make one for each test would take most of the time."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path_factory.mktemp('lasting')}/memory.db"
    return new_postgres_url(request.getfixturevalue("postgres"))


@pytest.fixture(scope="module")
def lasting(lasting_url: str) -> Iterator[IsolatedMemory]:
    """An open memory on it."""
    with IsolatedMemory(lasting_url, root_key=LocalRootKey(ROOT_KEY)) as memory:
        yield memory


def newcomer(memory: IsolatedMemory) -> ScopedMemory:
    """A user whom nobody has met."""
    return memory.scope(user_id=f"alice {next(_numbers)}", module_id="tutor")


@pytest.fixture
def alice(lasting: IsolatedMemory) -> ScopedMemory:
    """A user whom no other test has met."""
    return newcomer(lasting)
