"""A kit for applications' own tests: does one user's text ever reach another, or the disk?

>>> from langmem_isolated.testing import EchoChatModel, assert_isolated
>>> def app(user, session, text):
...     history = memory.scope(user_id=user, module_id="chat").chat_history(session)
...     history.add_user_message(text)
...     return EchoChatModel().invoke(history.messages).text
>>> assert_isolated(app).runs > 50
True

Its fixtures come with the package, as a plugin of pytest: `isolated_memory`, `isolated_users`,
`canary` and `fake_clock`. No model and no server is needed. ``docs/how-to/testing.md`` has the
rest.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langmem_isolated.testing.asgi import Request
    from langmem_isolated.testing.canaries import Canary
    from langmem_isolated.testing.echo_model import FAILURE, EchoChatModel, EchoFailed
    from langmem_isolated.testing.fake_clock import FakeClock
    from langmem_isolated.testing.isolation import (
        IsolationReport,
        aassert_isolated,
        assert_isolated,
    )
    from langmem_isolated.testing.readable import ReadableFound, assert_nothing_readable
    from langmem_isolated.testing.sightings import LeakFound, NothingSeen, Sighting

__all__ = [
    "FAILURE",
    "Canary",
    "EchoChatModel",
    "EchoFailed",
    "FakeClock",
    "IsolationReport",
    "LeakFound",
    "NothingSeen",
    "ReadableFound",
    "Request",
    "Sighting",
    "aassert_isolated",
    "assert_isolated",
    "assert_nothing_readable",
]

# Where each name is had from, when it is first asked for (PEP 562): pytest loads this folder in
# every project where the package is installed, and most of their tests need nothing of it.
_HOMES = {
    "asgi": ("Request",),
    "canaries": ("Canary",),
    "echo_model": ("FAILURE", "EchoChatModel", "EchoFailed"),
    "fake_clock": ("FakeClock",),
    "isolation": ("IsolationReport", "aassert_isolated", "assert_isolated"),
    "readable": ("ReadableFound", "assert_nothing_readable"),
    "sightings": ("LeakFound", "NothingSeen", "Sighting"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    found = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
