"""Items: what agents noted in the store, listed and removed."""

from __future__ import annotations

from collections.abc import Iterator

from langgraph.store.base import BaseStore, Item
from starlette.responses import Response
from starlette.routing import Route

from langmem_isolated.admin.person.pages import Mine, Module, Pages, page_of
from langmem_isolated.admin.person.readable import as_text

_PAGE = 50
_READ = 500


def routes(pages: Pages) -> list[Route]:
    """What agents noted in a module, and the removal of one note."""
    return [
        pages.get("/m/{module}/notes", _list, "items"),
        pages.post("/m/{module}/notes/{item}", _delete, "delete_item"),
    ]


def _names(module: Module, item: Item) -> tuple[str, ...]:
    return "item", module.name, item.key, *item.namespace


def _list(mine: Mine) -> Response:
    module, number = mine.module(), mine.number("page")
    # Only looked at: to show a note makes it live no longer.
    found = module.scoped.store().search(
        (), limit=_PAGE + 1, offset=(number - 1) * _PAGE, refresh_ttl=False
    )
    shown, more = page_of(found, 1, _PAGE)
    return mine.page(
        "items",
        "What agents noted",
        current="items",
        module=module,
        found=[(one, as_text(one.value), mine.reference(*_names(module, one))) for one in shown],
        number=number,
        more=number + 1 if more else None,
    )


def _all(store: BaseStore) -> Iterator[Item]:
    offset = 0
    while found := store.search((), limit=_READ, offset=offset, refresh_ttl=False):
        yield from found
        offset += len(found)


def _delete(mine: Mine) -> Response:
    module = mine.module()
    store = module.scoped.store()
    item = mine.meant("item", _all(store), lambda item: _names(module, item))
    if not mine.visit.is_confirmed:
        said = [f"“{item.key}” in {' / '.join(item.namespace)} is removed for good."]
        return mine.ask("Delete this note?", said, "Delete it", "items", module=module.reference)
    store.delete(item.namespace, item.key)
    return mine.visit.back("items", module=module.reference)
