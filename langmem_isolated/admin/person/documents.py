"""Documents: a module's own collections, listed and removed."""

from __future__ import annotations

from starlette.responses import Response
from starlette.routing import Route

from langmem_isolated.admin.person.pages import Mine, Module, Pages, page_of
from langmem_isolated.admin.person.readable import as_text
from langmem_isolated.lifecycle import DocumentCollection

_PAGE = 50


def routes(pages: Pages) -> list[Route]:
    """The collections of a module, one of them, and the removal of a document."""
    below = "/m/{module}/documents"
    return [
        pages.get(below, _list, "collections"),
        pages.get(f"{below}/{{collection}}", _read, "documents"),
        pages.post(f"{below}/{{collection}}/{{document}}", _delete, "delete_document"),
    ]


def _names(module: Module, collection: str, *document: str) -> tuple[str, ...]:
    return "document", module.name, collection, *document


def _list(mine: Mine) -> Response:
    module = mine.module()
    found = [
        (one, mine.reference(*_names(module, one.name))) for one in module.scoped.collections()
    ]
    return mine.page("collections", "Documents", current="collections", module=module, found=found)


def _meant(mine: Mine, module: Module) -> DocumentCollection:
    found = module.scoped.collections()
    return mine.meant("collection", found, lambda one: _names(module, one.name))


def _read(mine: Mine) -> Response:
    module, number = mine.module(), mine.number("page")
    collection = _meant(mine, module)
    found = module.scoped.collections.documents(collection.name)
    shown, more = page_of(found, number, _PAGE)
    return mine.page(
        "documents",
        f"Documents in “{collection.name}”",
        module=module,
        collection=mine.reference(*_names(module, collection.name)),
        found=[
            (
                document.page_content,
                as_text(document.metadata) if document.metadata else "",
                mine.reference(*_names(module, collection.name, str(document.id))),
            )
            for document in shown
        ],
        number=number,
        more=more,
    )


def _delete(mine: Mine) -> Response:
    module = mine.module()
    collection, collections = _meant(mine, module), module.scoped.collections
    document = mine.meant(
        "document",
        collections.documents(collection.name),
        lambda one: _names(module, collection.name, str(one.id)),
    )
    if not mine.visit.is_confirmed:
        said = [f"“{document.page_content[:200]}”", "It is removed for good."]
        return mine.ask(
            "Delete this document?", said, "Delete it", "collections", module=module.reference
        )
    collections.delete(collection.name, [str(document.id)])
    return mine.visit.back("collections", module=module.reference)
