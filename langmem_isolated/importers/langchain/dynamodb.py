"""DynamoDB: `DynamoDBChatMessageHistory` of langchain-community, an item for each session."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from langmem_isolated.importers.langchain.messages import read_message
from langmem_isolated.importers.langchain.urls import not_installed, not_read
from langmem_isolated.importers.source import Source
from langmem_isolated.lifecycle import ForeignMessage, ForeignSession, Rejected

_SERVICE = "Give the name of a table, and set region and credentials as boto3 reads them."


class DynamoDBSource(Source):
    """Sessions of one table, in the order that DynamoDB has them in: that of its own hash.

    Mapping rules read the items' other attributes that are text: a sort key, for instance.

    Args:
        location: The table's name.
        session_key: The attribute with the session's id.
        history_key: The attribute with the messages.
        ttl_key: The attribute that DynamoDB deletes items by, which it does within days: an item
            whose time is over is rejected.
        region: Of AWS; by default as boto3 finds it.
        endpoint: The URL of another server than AWS.

    Raises:
        SourceRefused: The table cannot be reached, or boto3 is not installed.
    """

    kind = "dynamodb"

    def __init__(
        self,
        location: str,
        *,
        session_key: str = "SessionId",
        history_key: str = "History",
        ttl_key: str = "expireAt",
        region: str | None = None,
        endpoint: str | None = None,
    ) -> None:
        self._table = _found(location, region, endpoint)
        self._session, self._history, self._ttl = session_key, history_key, ttl_key

    @property
    def identity(self) -> str:
        """The table's ARN, which has region, account and name."""
        return str(self._table.table_arn)

    def size(self) -> int:
        """In bytes, as DynamoDB last counted, every six hours."""
        return int(self._table.table_size_bytes)

    def units(self) -> Iterator[ForeignSession | Rejected]:
        """A session of each item."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            for number, item in enumerate(self._items(), 1):
                yield self._unit(item, f"item {number} of the scan")
        except (BotoCoreError, ClientError) as error:
            raise not_read("The table", error, _SERVICE) from None

    def _items(self) -> Iterator[Mapping[str, Any]]:
        """Pages of at most 1 MB: DynamoDB's own bound."""
        page = self._table.scan(ConsistentRead=True)
        yield from page["Items"]
        while start := page.get("LastEvaluatedKey"):
            page = self._table.scan(ConsistentRead=True, ExclusiveStartKey=start)
            yield from page["Items"]

    def _unit(self, item: Mapping[str, Any], place: str) -> ForeignSession | Rejected:
        id_, history = item.get(self._session), item.get(self._history)
        if not isinstance(id_, str):
            got = f"expected the id of its session as text, got {type(id_).__name__}"
            return Rejected(place, got)
        if not isinstance(history, list):
            return Rejected(place, f"expected a list of messages, got {type(history).__name__}")
        expires_at = item.get(self._ttl)
        if isinstance(expires_at, Decimal) and expires_at <= time.time():
            return Rejected(place, f"its time to live, {self._ttl}, is over")
        fields = {name: value for name, value in item.items() if isinstance(value, str)}
        return ForeignSession(id_, place, _messages(history, place), fields)


def _messages(history: list[Any], place: str) -> Iterator[ForeignMessage | Rejected]:
    for number, stored in enumerate(history, 1):
        where = f"{place}, message {number}"
        try:
            yield read_message(_plain(stored), where)
        except TypeError as error:
            yield Rejected(where, str(error))


def _plain(value: Any) -> Any:
    """As it was before DynamoDB, which has decimals for all numbers, and 1.0 as 1.

    Raises:
        TypeError: There are bytes or a set in it, which no message has.
    """
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if value is None or isinstance(value, str | bool):
        return value
    raise TypeError(f"expected values of JSON, got {type(value).__name__}")


def _found(name: str, region: str | None, endpoint: str | None) -> Any:
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        install = 'pip install "langmem-isolated[aws]"'
        raise not_installed("boto3", "DynamoDB", install) from None
    try:
        table = boto3.resource("dynamodb", region_name=region, endpoint_url=endpoint).Table(name)
        table.load()
    except (BotoCoreError, ClientError, ValueError) as error:
        raise not_read("The table", error, _SERVICE) from None
    return table
