"""LangMem: memories in a store of LangGraph, whose namespaces name the user."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from langmem_isolated.errors import SourceRefused
from langmem_isolated.importers.langgraph import SPECS
from langmem_isolated.importers.source import Source
from langmem_isolated.lifecycle import ForeignItem, ForeignUnit, Rejected

_DEFAULT = "memories.{langgraph_user_id}"
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_MEANINGS = {
    **dict.fromkeys(("user", "user_id", "langgraph_user_id"), "user"),
    **dict.fromkeys(("module", "assistant_id", "agent_id"), "module"),
    **dict.fromkeys(("project", "org_id", "tenant_id"), "project"),
}


class LangMemSource(Source):
    """Memories of LangMem in ``SqliteStore`` or ``PostgresStore``, with their owners' labels read.

    A namespace stays as it is, the user's label included: LangMem's tools, which are made with a
    template such as ``("memories", "{langgraph_user_id}")``, find their memories where they were.

    Args:
        location: The path of an SQLite file, or a URL of PostgreSQL.
        namespace: Templates as LangMem has them, labels joined by ``.``: a label in braces tells
            the user, module or project, ``*`` stands for any. The first that fits counts; what
            none fits has no owner.
        options: As ``sqlite-store`` or ``postgres-store`` takes them.

    Raises:
        SourceRefused: A template names no user.
    """

    kind: ClassVar[str] = "langmem"
    owners: ClassVar[Sequence[str]] = ("user",)

    def __init__(self, location: str, *, namespace: Sequence[str] = (), **options: Any) -> None:
        self._templates = [_Template(text) for text in namespace or (_DEFAULT,)]
        kind = "postgres-store" if location.startswith("postgres") else "sqlite-store"
        spec = next(spec for spec in SPECS if spec.kind == kind)
        self._store = spec.make(location, **options)

    @property
    def identity(self) -> str:
        """That of the store."""
        return self._store.identity

    def units(self) -> Iterator[ForeignUnit | Rejected]:
        """The store's items, with their owners."""
        for unit in self._store.units():
            yield self._with_owner(unit) if isinstance(unit, ForeignItem) else unit

    def total(self) -> int | None:
        """How many items the store has."""
        return self._store.total()

    def files(self) -> Sequence[Path]:
        """The store's."""
        return self._store.files()

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def _with_owner(self, item: ForeignItem) -> ForeignItem:
        found = (template.fields_of(item.namespace) for template in self._templates)
        fields = next((fields for fields in found if fields is not None), {})
        return replace(item, fields={**item.fields, **fields})


class _Template:
    """A namespace with placeholders."""

    def __init__(self, text: str) -> None:
        self._labels = text.split(".")
        told = [found[1] for label in self._labels if (found := _PLACEHOLDER.fullmatch(label))]
        meanings = [_MEANINGS.get(name) for name in told]
        if meanings.count("user") != 1 or None in meanings or len(set(meanings)) < len(meanings):
            raise SourceRefused(
                f"A namespace of {len(self._labels)} labels does not say which one is the user",
                f"Write labels joined by dots, as {_DEFAULT}; placeholders are "
                f"{', '.join(_MEANINGS)}.",
            )

    def fields_of(self, namespace: tuple[str, ...]) -> Mapping[str, str] | None:
        """What the labels say, if they fit."""
        if len(namespace) != len(self._labels):
            return None
        fields = {}
        for expected, label in zip(self._labels, namespace, strict=True):
            if found := _PLACEHOLDER.fullmatch(expected):
                fields[_MEANINGS[found[1]]] = label
            elif expected not in ("*", label):
                return None
        return fields
