"""Items of a store: checks what a row has, so that what is yielded is one of LangGraph's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from langmem_isolated._codecs.stock_serializer import Undecodable
from langmem_isolated.importers.langgraph.forms import json_object
from langmem_isolated.lifecycle import ForeignItem, Rejected

_SECONDS = 60


def item(
    place: str,
    prefix: object,
    key: object,
    value: object,
    times: Mapping[str, object],
    ttl_minutes: object = None,
) -> ForeignItem | Rejected:
    """An item by what its row has, of whatever types that is.

    Args:
        place: Where it stands.
        prefix: Its namespace, the labels joined by dots; a label has none.
        key: Its key.
        value: JSON, as text.
        times: ``created_at``, ``updated_at`` and ``expires_at``.
        ttl_minutes: By how much each reading puts off ``expires_at``.
    """
    try:
        namespace = tuple(_text("prefix", prefix).split("."))
        ttl = None if ttl_minutes is None else _minutes(ttl_minutes) * _SECONDS
        found = {name: _moment(name, time) for name, time in times.items() if time is not None}
        return ForeignItem(
            *(namespace, _text("key", key), json_object(value, "the value"), place),
            created_at=found.get("created_at"),
            updated_at=found.get("updated_at"),
            ttl_seconds=ttl,
            expires_at=found.get("expires_at"),
            fields={"prefix": prefix, "namespace": [*namespace], "key": key},
        )
    except Undecodable as error:
        return Rejected(place, str(error))


def _text(name: str, value: object) -> str:
    if type(value) is not str:
        raise Undecodable(f"its {name} is {type(value).__name__} in place of text")
    return value


def _minutes(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
        raise Undecodable("its ttl_minutes is no number of minutes")
    return float(value)


def _moment(name: str, value: object) -> datetime:
    try:
        found = value if isinstance(value, datetime) else datetime.fromisoformat(_text(name, value))
    except ValueError:
        raise Undecodable(f"its {name} is no time of ISO 8601") from None
    # SQLite's own clock is in UTC and says nothing of it.
    return found if found.tzinfo else found.replace(tzinfo=UTC)
