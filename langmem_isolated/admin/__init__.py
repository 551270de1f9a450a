"""Pages for people: an operator's admin page, and the page where users see their own memory."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langmem_isolated.admin.operator.application import admin_app
    from langmem_isolated.admin.operator.standalone import standalone_app
    from langmem_isolated.admin.person.application import memory_app

__all__ = ["admin_app", "memory_app", "standalone_app"]

_HOMES = {
    "admin_app": "operator.application",
    "memory_app": "person.application",
    "standalone_app": "operator.standalone",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
