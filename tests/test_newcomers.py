"""A newcomer's mistakes: each error says what was given, what was expected, and what to do."""

import ast
import base64
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.messages import AIMessage
from langchain_core.vectorstores import InMemoryVectorStore
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.store.base import InvalidNamespaceError
from pydantic import ValidationError

from langmem_isolated import (
    IsolatedMemory,
    LocalRootKey,
)
from langmem_isolated.errors import (
    AnonymousNotFound,
    DatabaseCorrupt,
    DatabaseError,
    DatabaseReadOnly,
    DatabaseUnreachable,
    IsolationViolation,
    PolicyNotFound,
    RootKeyInvalid,
    RootKeyMismatch,
    RootKeyMissing,
    SchemaTooOld,
    ScopeError,
    SessionNotFound,
    ThreadNotFound,
    ValueNotStorable,
)
from tests.conftest import ROOT_KEY
from tests.spellings import assert_shows_none_of

PROJECT = Path(__file__).parent.parent
# What a newcomer has imported.
IMPORTED = """
import base64, copy, os, pickle, uuid
from datetime import datetime, timedelta
from pathlib import Path
import langmem_isolated
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.messages import HumanMessage
from langchain_core.vectorstores import InMemoryVectorStore
from langgraph.checkpoint.memory import InMemorySaver
from langmem_isolated import *
from langmem_isolated.middleware import IsolatedMemoryMiddleware
from langmem_isolated.caches import IsolatedNodeCache
from langmem_isolated.recall.tool import RecallTool
from langmem_isolated.wrapping import WrappedVectorStore
"""
# What no error may show: what was said, whose it is, a password, a key.
SECRET, USER = "canarySECRET7", "canaryUSER7"
KEY = base64.b64encode(ROOT_KEY).decode()
# A key of which each way of writing it differs from the next.
OTHER_KEY = bytes(range(224, 256))


class Mistake(NamedTuple):
    """What a newcomer writes, and what the error says."""

    written: str
    error: type[BaseException]
    received: str
    expected: str
    advice: str


M = Mistake
URL = "expected sqlite:///memory.db or postgresql://user:password@host/name"
BASE64 = "must be 32 bytes in base64"
KEYGEN = "langmem-isolated keygen"
PROVIDER = "root_key must be a LocalRootKey, or another object with wrap, unwrap and key_id"
ID = "must be a non-empty str of at most 255 bytes"
NO_DEFAULT = "There is no default"
IN_CONFIG = "thread_id in config['configurable']"
OF_SCOPE = "memory.scope(user_id=…, module_id=…)"
CLOSED = M("", DatabaseError, "was closed", "inside its `with` block", "make a new IsolatedMemory")

URLS = [
    M("IsolatedMemory()", TypeError, "missing 1", "'url'", "called as IsolatedMemory(url"),
    M("IsolatedMemory(root_key)", DatabaseError, "got LocalRootKey", URL, "Write a str"),
    M("IsolatedMemory(None)", DatabaseError, "got NoneType", URL, "Write a str"),
    M("IsolatedMemory('')", DatabaseError, "got an empty str", URL, "Is the variable"),
    M("IsolatedMemory('memory.db')", DatabaseError, "9 characters", URL, "sqlite:///memory.db"),
    M("IsolatedMemory('/var/memory.db')", DatabaseError, "14 characters", URL, "sqlite:///"),
    M("IsolatedMemory('sqlite:memory.db')", DatabaseError, "without ://", URL, "sqlite:///"),
    M("IsolatedMemory(Path('a.db'))", DatabaseError, "PosixPath", URL, 'f"sqlite:///{path}"'),
    M("IsolatedMemory(b'sqlite:///a')", DatabaseError, "got bytes", URL, "Write a str"),
    M("IsolatedMemory('sqlite://memory.db')", DatabaseError, "a host", URL, "three slashes"),
    M("IsolatedMemory('sqlite:///~/a.db')", DatabaseError, "~", URL, "expanduser()"),
    M("IsolatedMemory('mysql://u:canarySECRET7@h/a')", DatabaseError, "'mysql'", URL, "SQLite"),
    M("IsolatedMemory('redis://localhost')", DatabaseError, "'redis'", URL, "SQLite needs no"),
    M("IsolatedMemory('mongodb://localhost')", DatabaseError, "'mongodb'", URL, "SQLite needs no"),
    M("IsolatedMemory('https://example.com')", DatabaseError, "'https'", URL, "SQLite needs no"),
    M(
        "IsolatedMemory('postgresql+asyncpg://u:canarySECRET7@h/a')",
        *(DatabaseError, "driver 'asyncpg'", URL, "Write postgresql:// alone: psycopg is used"),
    ),
    M(
        "IsolatedMemory('postgresql+psycopg2://u:canarySECRET7@h/a')",
        *(DatabaseError, "driver 'psycopg2'", URL, "Write postgresql:// alone"),
    ),
    M(
        "IsolatedMemory('postgres+asyncpg://u:canarySECRET7@h/a')",
        *(DatabaseError, "driver 'asyncpg'", URL, "Write postgresql:// alone"),
    ),
    M(
        "IsolatedMemory('sqlite+aiosqlite:///a.db')",
        *(DatabaseError, "driver 'aiosqlite'", URL, "Write sqlite:// alone: sqlite3 is used"),
    ),
    M(
        "IsolatedMemory('postgresql://u:canarySECRET7@h:port/a')",
        *(DatabaseError, "characters", URL, "A port is a number"),
    ),
    M(
        "IsolatedMemory('postgresql://u:p@canarySECRET7:x@h/a')",
        *(DatabaseError, "characters", URL, "in a password are written"),
    ),
    M("IsolatedMemory('host=h dbname=a')", DatabaseError, "without ://", URL, "sqlite:///"),
    M(
        "IsolatedMemory('postgres://u:canarySECRET7@127.0.0.1:1/a', root_key=root_key).open()",
        *(DatabaseUnreachable, "port 1 failed: Connection refused", "Check the URL", "server run?"),
    ),
    M(
        "IsolatedMemory('postgresql://u@no.invalid/a', root_key=root_key, timeout=2).open()",
        *(DatabaseUnreachable, "failed to resolve", "Check the URL", "does the server run?"),
    ),
    M(
        "IsolatedMemory('sqlite:///no/such/a.db', root_key=root_key).open()",
        *(DatabaseUnreachable, "its folder is not there", "make the folder first", "mkdir"),
    ),
    M(
        "IsolatedMemory('sqlite:///$HOME/a.db', root_key=root_key).open()",
        *(DatabaseUnreachable, "its folder is not there", "make the folder first", "mkdir"),
    ),
    M(
        "Path('memory').mkdir(); IsolatedMemory('sqlite:///memory', root_key=root_key).open()",
        *(DatabaseUnreachable, "a folder stands in its place", "name a file", "Check the URL"),
    ),
    M(
        "Path('a.db').write_text('no database ' * 500); "
        "IsolatedMemory('sqlite:///a.db', root_key=root_key).open()",
        *(DatabaseCorrupt, "file is not a database", "check the URL", "restore"),
    ),
    M(
        "IsolatedMemory('sqlite:///a.db', root_key=root_key).open().close(); "
        "IsolatedMemory('sqlite:///file:a.db?mode=ro&uri=true', root_key=root_key)"
        ".scope(user_id='a', module_id='b').chat_history('s').add_user_message('canarySECRET7')",
        *(DatabaseReadOnly, "readonly database", "let this user write the file", "Nothing was"),
    ),
    M("os.environ['LANGMEM_ISOLATED_DATABASE'] = 'mysql://h'; IsolatedMemory.from_environment()",
        DatabaseError, "'mysql'", URL, "SQLite needs no server"),
    M("os.environ['LANGMEM_ISOLATED_DATABASE'] = ''; IsolatedMemory.from_environment()",
        DatabaseError, "an empty str", URL, "Is the variable"),
    M("IsolatedMemory(url, root_key=root_key, key_store='keys.db')",
        DatabaseError, "without ://", URL, "sqlite:///"),
    M("IsolatedMemory(url, root_key=root_key, key_store=Path('keys.db'))",
        DatabaseError, "PosixPath", URL, "sqlite:///{path}"),
    M("IsolatedMemory(url, root_key=root_key, key_store=url)",
        DatabaseError, "the database itself", "Expected another", "leave key_store out"),
]  # fmt: skip

KEYS = [
    M("IsolatedMemory(url)", RootKeyMissing, "No root key", "root_key=…", KEYGEN),
    M("IsolatedMemory(url, root_key='my password')", RootKeyInvalid, "got str", PROVIDER,
        "LocalRootKey.from_text(text)"),
    M("IsolatedMemory(url, root_key=key)", RootKeyInvalid, "got str", PROVIDER, "from_text"),
    M("IsolatedMemory(url, root_key=key.encode())", RootKeyInvalid, "got bytes", PROVIDER,
        "LocalRootKey(key)"),
    M("IsolatedMemory(url, root_key=Path('root.key'))", RootKeyInvalid, "PosixPath", PROVIDER,
        "from_file(path)"),
    M("IsolatedMemory(url, root_key=LocalRootKey)", RootKeyInvalid, "the class LocalRootKey",
        PROVIDER, "leave it out"),
    M("IsolatedMemory(url, root_key={'key': key})", RootKeyInvalid, "got dict", PROVIDER,
        "leave it out"),
    M("IsolatedMemory(url, root_key='')", RootKeyInvalid, "got str", PROVIDER, "from_text"),
    M("IsolatedMemory(url, key=root_key)", TypeError, "'key'", "root_key=None", "is called as"),
    M("LocalRootKey('canarySECRET7')", RootKeyInvalid, "a str of 13", "32 bytes", "from_text"),
    M("LocalRootKey(key)", RootKeyInvalid, "a str of 44", "must be 32 bytes", "from_text(text)"),
    M("LocalRootKey(b'canarySECRET7')", RootKeyInvalid, "got 13", "must be 32 bytes", KEYGEN),
    M("LocalRootKey(bytes(64))", RootKeyInvalid, "got 64", "must be 32 bytes", KEYGEN),
    M("LocalRootKey(None)", RootKeyInvalid, "NoneType", "must be 32 bytes", "from_file(path)"),
    M("LocalRootKey(32)", RootKeyInvalid, "got int", "must be 32 bytes", "from_text(text)"),
    M("LocalRootKey.from_text('canarySECRET7')", RootKeyInvalid, "13 characters", BASE64, KEYGEN),
    M("LocalRootKey.from_text(other_key.hex())", RootKeyInvalid, "64 hexadecimal", BASE64,
        "LocalRootKey(bytes.fromhex(text))"),
    M("LocalRootKey.from_text(base64.urlsafe_b64encode(other_key).decode())", RootKeyInvalid,
        "Fernet.generate_key()", BASE64, "base64.urlsafe_b64decode(text)"),
    M("LocalRootKey.from_text(base64.urlsafe_b64encode(other_key))", RootKeyInvalid,
        "got bytes", BASE64, "text.decode()"),
    M("LocalRootKey.from_text(key.rstrip('='))", RootKeyInvalid, "43 characters", BASE64,
        "= at the end is missing"),
    M("LocalRootKey.from_text(f'{key!r}')", RootKeyInvalid, "quotation marks", BASE64,
        "Take them off"),
    M("LocalRootKey.from_text(f'LANGMEM_ISOLATED_ROOT_KEY={key}')", RootKeyInvalid,
        "a variable's name", BASE64, "Give the value alone"),
    M("LocalRootKey.from_text(key[:20] + chr(10) + key[20:])", RootKeyInvalid, "line breaks",
        BASE64, "Take them out"),
    M("LocalRootKey.from_text('$(langmem-isolated keygen)')", RootKeyInvalid,
        "a command or variable that no shell", BASE64, "Run it first"),
    M("LocalRootKey.from_text(base64.b64encode(bytes(16)).decode())", RootKeyInvalid,
        "which are 16 bytes", BASE64, KEYGEN),
    M("LocalRootKey.from_text('')", RootKeyInvalid, "0 characters", BASE64, "file is empty"),
    M("LocalRootKey.from_text(None)", RootKeyInvalid, "NoneType", BASE64, "the text of a key"),
    M("LocalRootKey.from_text('keys/root.key')", RootKeyInvalid, "like a path", BASE64,
        "from_file(path)"),
    M("LocalRootKey.from_file('root.key')", RootKeyMissing, "is not there", "root_key=…", KEYGEN),
    M("LocalRootKey.from_file('~/root.key')", RootKeyMissing, "~ is not expanded", "is not there",
        "expanduser()"),
    M("LocalRootKey.from_file(None)", RootKeyInvalid, "got NoneType", "a str or Path", KEYGEN),
    M("Path('root.key').mkdir(); LocalRootKey.from_file('root.key')", RootKeyInvalid,
        "Is a directory", "a file that its owner can read", KEYGEN),
    M("Path('root.key').write_text(key); Path('root.key').chmod(0o644); "
        "LocalRootKey.from_file('root.key')", RootKeyInvalid, "mode 0644", "others may read it",
        "chmod 600"),
    M("Path('root.key').write_text(''); Path('root.key').chmod(0o600); "
        "LocalRootKey.from_file('root.key')", RootKeyInvalid, "0 characters", BASE64, KEYGEN),
    M("Path('root.key').write_bytes(other_key); Path('root.key').chmod(0o600); "
        "LocalRootKey.from_file('root.key')", RootKeyInvalid, "32 characters", BASE64, KEYGEN),
    M("os.environ['LANGMEM_ISOLATED_ROOT_KEY'] = ''; IsolatedMemory(url)", RootKeyMissing,
        "No root key", "set LANGMEM_ISOLATED_ROOT_KEY", KEYGEN),
    M("os.environ['LANGMEM_ISOLATED_ROOT_KEY_FILE'] = '/no/such.key'; IsolatedMemory(url)",
        RootKeyMissing, "The root key file is not there", "LANGMEM_ISOLATED_ROOT_KEY_FILE", KEYGEN),
    M("Path('root.key').write_text(base64.b64encode(other_key).decode()); "
        "Path('root.key').chmod(0o600); os.environ['LANGMEM_ISOLATED_ROOT_KEY_FILE'] = 'root.key'; "
        "os.environ['LANGMEM_ISOLATED_ROOT_KEY'] = key; IsolatedMemory(url)", RootKeyInvalid,
        "have different root keys", "one was expected", "Unset the variable"),
    M("history.add_user_message('canarySECRET7'); memory.close(); "
        "IsolatedMemory(own_url, root_key=LocalRootKey(other_key)).open()", RootKeyMismatch,
        "the one given is", "wrapped by root key", "give the key this database began with"),
]  # fmt: skip

OPTIONS = [
    M("IsolatedMemory(url, root_key=root_key, pool_size=0)", ValueError, "got 0",
        "pool_size must be 1 or more", "number of connections"),
    M("IsolatedMemory(url, root_key=root_key, pool_size='8')", TypeError, "got str",
        "pool_size must be a whole number", "number of connections"),
    M("IsolatedMemory(url, root_key=root_key, pool_size=2.5)", TypeError, "got float",
        "pool_size must be a whole number", "number of connections"),
    M("IsolatedMemory(url, root_key=root_key, timeout='30')", TypeError, "got str",
        "timeout must be seconds", "Give seconds"),
    M("IsolatedMemory(url, root_key=root_key, timeout=0)", ValueError, "got 0",
        "timeout must be above 0", "Give seconds"),
    M("IsolatedMemory(url, root_key=root_key, timeout=None)", TypeError, "got NoneType",
        "timeout must be seconds", "Give seconds"),
    M("IsolatedMemory(url, root_key=root_key, timeout=timedelta(seconds=3))", TypeError,
        "got timedelta", "timeout must be seconds", "Give seconds"),
    M("IsolatedMemory(url, root_key=root_key, synchronous='OFF')", ValueError, "another str",
        'must be "FULL" or "NORMAL"', "Leave it out for FULL"),
    M("IsolatedMemory(url, root_key=root_key, key_cache_size=-1)", ValueError, "got -1",
        "0 or more", "how many owners' keys"),
    M("IsolatedMemory(url, root_key=root_key, key_cache_seconds=timedelta(minutes=5))", TypeError,
        "got timedelta", "must be seconds", "span.total_seconds()"),
    M("IsolatedMemory(url, root_key=root_key, plaintext_cache_seconds=-1)", ValueError, "got -1",
        "plaintext_cache_seconds must be 0 or more", "Give seconds"),
    M("IsolatedMemory(url, root_key=root_key, plaintext_cache_bytes='256MB')", TypeError,
        "got str", "plaintext_cache_bytes must be a whole number", "Give an int"),
    M("IsolatedMemory(url, root_key=root_key, auto_upgrade='no')", TypeError, "got str",
        "must be True or False", "Give False"),
    M("IsolatedMemory(url, root_key=root_key, auto_upgrade=False).open()", SchemaTooOld,
        "schema version 0", "needs 1", "langmem-isolated schema upgrade"),
    M("IsolatedMemory(url, root_key=root_key, config_keys='user_id')", TypeError, "got str",
        "must be a dict", "user_id, module_id, project_id"),
    M("IsolatedMemory(url, root_key=root_key, config_keys={'user': 'u'})", TypeError, "got dict",
        "keys among", "user_id, module_id, project_id"),
]  # fmt: skip

SCOPES = [
    M("memory.scope('canaryUSER7', 'tutor')", ScopeError, "got str, str", "takes a Scope alone",
        "Write memory.scope(user_id=…, module_id=…)"),
    M("memory.scope('canaryUSER7')", ScopeError, "got str", "takes a Scope alone", "user_id=…"),
    M("memory.scope({'user_id': 'canaryUSER7', 'module_id': 'm'})", ScopeError, "got dict",
        "takes a Scope alone", "Write memory.scope(user_id=…, module_id=…)"),
    M("memory.scope(Scope('canaryUSER7', 'm'), user_id='x')", ScopeError, "got Scope",
        "takes a Scope alone", "Write memory.scope("),
    M("memory.scope()", ScopeError, "got NoneType", f"user_id {ID}", NO_DEFAULT),
    M("memory.scope(user_id='canaryUSER7')", ScopeError, "NoneType", f"module_id {ID}", NO_DEFAULT),
    M("memory.scope(user_id=None, module_id='m')", ScopeError, "NoneType", ID, NO_DEFAULT),
    M("memory.scope(user_id='', module_id='m')", ScopeError, "an empty string", ID, NO_DEFAULT),
    M("memory.scope(user_id=42, module_id='m')", ScopeError, "got int", ID, "write str(user.id)"),
    M("memory.scope(user_id=uuid.uuid4(), module_id='m')", ScopeError, "got UUID", ID,
        "write str(user.id)"),
    M("memory.scope(user_id=True, module_id='m')", ScopeError, "got bool", ID, NO_DEFAULT),
    M("memory.scope(user_id=b'canaryUSER7', module_id='m')", ScopeError, "bytes", ID, NO_DEFAULT),
    M("memory.scope(user_id='canaryUSER7' + chr(10), module_id='m')", ScopeError,
        "control characters", ID, NO_DEFAULT),
    M("memory.scope(user_id='canaryUSER7' * 30, module_id='m')", ScopeError, "330 characters", ID,
        NO_DEFAULT),
    M("memory.scope(user_id='e' + chr(0x301), module_id='m')", ScopeError, "not NFC", ID,
        "normalise it where it enters"),
    M("memory.scope(user='canaryUSER7', module='m')", TypeError, "'user'", "is called as scope(",
        "user_id=None, module_id=None"),
    M("memory.scope(user_id='canaryUSER7', module_id='m', thread_id='1')", TypeError,
        "'thread_id'", "is called as scope(", "user_id=None, module_id=None"),
    M("Scope('canaryUSER7')", TypeError, "missing 1", "'module_id'", "Scope(user_id, module_id"),
    M("Scope('canaryUSER7', 'm', 'school')", TypeError, "4 were given", "takes 3",
        "*, project_id='default'"),
    M("Scope('canaryUSER7', 'm', project_id=None)", ScopeError, "NoneType", f"project_id {ID}",
        NO_DEFAULT),
    M("scope.module(7)", ScopeError, "got int", f"module_id {ID}", "write its text"),
    M("memory.chat_history('monday')", AttributeError, "no attribute 'chat_history'",
        "It is one user's", f"{OF_SCOPE}.chat_history"),
    M("memory.bind(graph)", AttributeError, "'bind'", "It is one user's", f"{OF_SCOPE}.bind"),
    M("memory.sessions()", AttributeError, "'sessions'", "one user's", f"{OF_SCOPE}.sessions"),
    M("memory.recall('fractions')", AttributeError, "'recall'", "one user's", f"{OF_SCOPE}.recall"),
    M("memory.publisher()", ScopeError, "got none", "user_id=, module_id= or project_id=",
        "say who reads"),
    M("memory.publisher(user_id='canaryUSER7', module_id='m')", ScopeError, "got both",
        "user_id= or module_id=", f"{OF_SCOPE}.vector_store"),
    M("memory.publisher('tutor')", TypeError, "2 were given", "takes 1", "publisher(*, user_id"),
    M("memory.modules()", TypeError, "missing 1", "'user_id'", "is called as modules(user_id, *"),
    M("memory.using('canaryUSER7')", ScopeError, "got str", "takes a Scope or memory.scope(…)",
        "with memory.using(memory.scope("),
    M("memory.using(user_id='canaryUSER7')", TypeError, "'user_id'", "is called as", "using(scope"),
]  # fmt: skip

CONSTRUCTORS = [
    M(f"{name}", TypeError, f"called with ({given}", "names no scope", call)
    for name, given, call in [
        ("IsolatedCheckpointSaver()", "", f"{OF_SCOPE}.checkpointer(), or by memory.checkpointer"),
        ("IsolatedCheckpointSaver(url)", "str", f"{OF_SCOPE}.checkpointer()"),
        ("IsolatedStore()", "", f"{OF_SCOPE}.store(), or by memory.store()"),
        ("IsolatedStore(index={})", "index=", f"{OF_SCOPE}.store()"),
        ("IsolatedChatMessageHistory()", "", f"{OF_SCOPE}.chat_history(session_id)"),
        ("IsolatedChatMessageHistory('monday')", "str", f"{OF_SCOPE}.chat_history(session_id)"),
        (
            "IsolatedChatMessageHistory(session_id='monday', connection=url)",
            "session_id=, connection=",
            f"{OF_SCOPE}.chat_history(session_id)",
        ),
        ("IsolatedVectorStore()", "", f"{OF_SCOPE}.vector_store(embeddings)"),
        ("IsolatedVectorStore(embeddings)", "Determ", f"{OF_SCOPE}.vector_store(embeddings)"),
        ("IsolatedRetriever()", "", f"{OF_SCOPE}.retriever(source)"),
        ("IsolatedRetriever(embeddings)", "Determ", f"{OF_SCOPE}.retriever(source)"),
        ("IsolatedBM25Retriever()", "", f"{OF_SCOPE}.bm25_retriever()"),
        ("IsolatedBM25Retriever.from_texts(['canarySECRET7'])", "list", "bm25_retriever()"),
        ("IsolatedBM25Retriever.from_documents([])", "list", f"{OF_SCOPE}.bm25_retriever()"),
        ("IsolatedLLMCache()", "", f"{OF_SCOPE}.llm_cache(), or by memory.llm_cache()"),
        ("IsolatedByteStore('parents')", "str", f'{OF_SCOPE}.byte_store("parents")'),
        ("IsolatedRecordManager('notes', db_url=url)", "str, db_url=", "record_manager(name)"),
        ("IsolatedCallbackHandler()", "", f"{OF_SCOPE}.callback_handler(session_id)"),
        ("IsolatedMemoryMiddleware()", "", f"{OF_SCOPE}.middleware(), or by memory.middleware()"),
        ("IsolatedNodeCache()", "", f"{OF_SCOPE}.node_cache()"),
        ("RecallTool()", "", f"{OF_SCOPE}.recall_tool()"),
        ("WrappedVectorStore(shared)", "InMemory", f"{OF_SCOPE}.vector_store(wrapping=store)"),
        ("ScopedMemory('canaryUSER7', 'tutor')", "str, str", OF_SCOPE),
        ("ScopedMemory()", "", OF_SCOPE),
        ("Publisher()", "", "memory.publisher(module_id=…)"),
        ("Sessions()", "", f"{OF_SCOPE}.sessions"),
        ("Session()", "", f"{OF_SCOPE}.sessions()"),
        ("Thread()", "", f"{OF_SCOPE}.checkpointer().threads()"),
        ("Recalled()", "", f"{OF_SCOPE}.recall(query)"),
    ]
] + [
    M("IsolatedCheckpointSaver.from_conn_string(url)", ScopeError, "names no scope",
        "memory = IsolatedMemory(url)", f"{OF_SCOPE}.checkpointer()"),
    M("IsolatedStore.from_conn_string(url)", ScopeError, "names no scope",
        "memory = IsolatedMemory(url)", f"{OF_SCOPE}.store()"),
    M("IsolatedVectorStore.from_texts(['canarySECRET7'], embeddings)", ScopeError, "got NoneType",
        "needs scope=memory.scope(…)", NO_DEFAULT),
    M("langmem_isolated.IsolatedChatHistory", AttributeError, "no attribute 'IsolatedChatHistory'",
        "Did you mean IsolatedChatMessageHistory", "langmem_isolated.__all__"),
    M("langmem_isolated.Memory", AttributeError, "no attribute 'Memory'", "IsolatedMemory",
        "langmem_isolated.__all__"),
]  # fmt: skip

GRAPHS = [
    M("scope.bind(builder)", TypeError, "got StateGraph", "a compiled graph",
        "bind(builder.compile())"),
    M("scope.bind(lambda state: state)", TypeError, "got function", "a compiled graph",
        "StateGraph.compile()"),
    M("scope.bind(None)", TypeError, "got NoneType", "a compiled graph", "create_agent()"),
    M("scope.bind(graph, scope.checkpointer())", TypeError, "3 were given", "takes 2",
        "bind(graph, *, checkpointer=None"),
    M("scope.bind(graph, checkpointer=memory.checkpointer())", IsolationViolation,
        "IsolatedCheckpointSaver of another", "parts made by this scope", "leave them out"),
    M("scope.bind(graph, checkpointer=InMemorySaver())", IsolationViolation,
        "InMemorySaver of another", "parts made by this scope", "scope.checkpointer(ttl=…)"),
    M("scope.bind(graph).invoke(hi, {'configurable': {'thread_id': ''}})", ScopeError,
        "an empty string", f"{IN_CONFIG} {ID}", NO_DEFAULT),
    M("scope.bind(graph).invoke(hi, {'configurable': {'thread_id': None}})", ScopeError,
        "got NoneType", f"{IN_CONFIG} {ID}", NO_DEFAULT),
    M("scope.bind(graph).invoke(hi, {'configurable': {'thread_id': '1', 'user_id': 'bob', "
        "'module_id': 'tutor'}})", IsolationViolation, "name different scopes", "Nothing was read",
        "Do not let clients"),
    M("anyone.invoke(hi, {'configurable': {'thread_id': '1'}})", ScopeError, "names no scope",
        "user_id and module_id into config['configurable']", "memory.scope(…).bind(graph)"),
    M("anyone.invoke(hi, {'configurable': {'thread_id': '1', 'user_id': 'canaryUSER7'}})",
        ScopeError, "module_id is missing", "Give both", "config_keys"),
    M("anyone.invoke(hi, {'configurable': {'thread_id': '1', 'user_id': uuid.uuid4(), "
        "'module_id': 'm'}})", ScopeError, "got UUID", f"user_id {ID}", "write str(user.id)"),
    M("await anyone.ainvoke(hi, {'configurable': {'thread_id': '1'}})", ScopeError,
        "names no scope", "user_id and module_id", "with memory.using(scope)"),
    M("memory.checkpointer('canaryUSER7')", TypeError, "2 were given", "takes 1",
        "checkpointer(*, allow=(), strict=False, ttl=None"),
    M("memory.checkpointer().delete_thread('1')", ScopeError, "names no scope", "user_id",
        "memory.scope(…).checkpointer()"),
    M("memory.checkpointer(scope_resolver='canaryUSER7')", TypeError, "got str",
        "a function of a config", "Write scope_resolver=lambda config: Scope"),
    M("builder.compile(checkpointer=memory.checkpointer(scope_resolver=lambda c: 'canaryUSER7'))"
        ".invoke(hi, {'configurable': {'thread_id': '1'}})", ScopeError, "got str",
        "must return a Scope or None", "Write return Scope(user, module)"),
    M("saver.get_tuple('thread-1')", TypeError, "got str", "A config must be a dict",
        '{"configurable": {"thread_id": …}}'),
    M("saver.get_tuple({})", ScopeError, "got NoneType", f"{IN_CONFIG} {ID}", NO_DEFAULT),
    M("saver.delete_thread(None)", ScopeError, "got NoneType", f"thread_id {ID}", NO_DEFAULT),
    M("saver.prune('thread-1')", TypeError, "got a str", "a list of ids", "Write [thread_id]"),
    M("saver.prune(['t'], keep_last=0)", ValueError, "got 0", "1 or more", "Leave both out"),
    M("saver.prune(['t'], strategy='canarySECRET7')", ValueError, "another str",
        "'keep_latest' or 'delete'", "Leave both out"),
    M("saver.put_writes({'configurable': {'thread_id': 't'}}, [('a', 1)], 'task')", ScopeError,
        "put_writes", "needs a checkpoint_id", "config['configurable']"),
    M("scope.checkpointer(ttl=3600)", TypeError, "got int", "a timedelta",
        "ttl=timedelta(seconds=3600)"),
    M("memory.checkpointer(ttl='1h')", TypeError, "got str", "a timedelta", "timedelta(seconds="),
    M("scope.checkpointer(ttl=timedelta(days=-1))", ValueError, "0 or below",
        "a microsecond or more", "Leave ttl out"),
    M("scope.checkpointer(allow=dict)", TypeError, "the class dict", "a list of types", "[Order]"),
    M("scope.checkpointer(allow=['app.Order'])", TypeError, "one str", "types, or tuples",
        '("app.models", "Order")'),
    M("pickle.dumps(saver)", TypeError, "cannot be pickled", "open connections", "in each process"),
    M("scope.middleware(recall=0)", ValueError, "got 0", "recall must be 1 or more", "or None"),
    M("scope.middleware(recall=True)", TypeError, "got bool", "a whole number", "or None"),
    M("memory.middleware(summarize_with='gpt')", TypeError, "got str", "must be a chat model",
        "init_chat_model"),
    M("memory.middleware('ai')", TypeError, "2 were given", "takes 1", "middleware(*, channel="),
    M("scope.callback_handler(None)", ScopeError, "got NoneType", f"session_id {ID}", NO_DEFAULT),
    M("scope.callback_handler()", TypeError, "missing 1", "'session_id'", "is called as"),
]  # fmt: skip

HISTORIES = [
    M("scope.chat_history()", TypeError, "missing 1", "'session_id'", "chat_history(session_id"),
    M("scope.chat_history(None)", ScopeError, "got NoneType", f"session_id {ID}", NO_DEFAULT),
    M("scope.chat_history(uuid.uuid4())", ScopeError, "got UUID", f"session_id {ID}", "its text"),
    M("scope.chat_history('monday', 'general')", TypeError, "3 were given", "takes 2",
        "channel=None"),
    M("scope.chat_history('monday', channel=7)", ScopeError, "got int", f"channel {ID}", "text"),
    M("history.add_messages(HumanMessage('canarySECRET7'))", ValueNotStorable,
        "HumanMessage", "in a list", "add_messages(["),
    M("await history.aadd_messages(HumanMessage('canarySECRET7'))", ValueNotStorable,
        "HumanMessage", "in a list", "add_messages(["),
    M("history.add_messages('canarySECRET7')", ValueNotStorable, "type str", "in a list",
        "add_messages(["),
    M("history.add_messages({'role': 'user', 'content': 'canarySECRET7'})", ValueNotStorable,
        "dict", "in a list", "add_messages(["),
    M("history.add_messages(None)", ValueNotStorable, "NoneType", "in a list", "add_messages(["),
    M("history.add_messages(['canarySECRET7'])", ValueNotStorable, "type builtins.str",
        "a message of langchain-core", "HumanMessage(text)"),
    M("history.add_messages([('user', 'canarySECRET7')])", ValueNotStorable, "builtins.tuple",
        "a message of langchain-core", "HumanMessage(text)"),
    M("history.add_message('canarySECRET7')", ValueNotStorable, "builtins.str",
        "a message of langchain-core", "HumanMessage(text)"),
    M("history.add_user_message(None)", ValueNotStorable, "NoneType",
        "a message of langchain-core", "HumanMessage(text)"),
    M("history.last('3')", TypeError, "got str", "limit must be a whole number", "Give an int"),
    M("history.last(-1)", ValueError, "got -1", "limit must be 0 or more", "larger"),
    M("history.page(before='x')", TypeError, "got str", "before must be a whole", "Give an int"),
    M("history.window(max_tokens='1000')", TypeError, "got str", "max_tokens", "Give an int"),
    M("scope.recent(10)", TypeError, "got int", "limits must be a dict", '{"general": 10}'),
    M("scope.recent(['general'])", TypeError, "got list", "must be a dict", '{"general": 10}'),
    M("scope.recent({'general': '10'})", TypeError, "got str", "a whole number", "Give an int"),
    M("scope.sessions(limit='5')", TypeError, "got str", "a whole number", "Give an int"),
    M("scope.sessions(before='monday')", TypeError, "got str", "a Session or None", "the last"),
    M("scope.sessions.get('monday')", SessionNotFound, "no session of that id",
        "scope.sessions() lists", "sessions.create()"),
    M("scope.sessions.rename('monday', 'x')", SessionNotFound, "Nothing was changed",
        "scope.sessions() lists", "sessions.create()"),
    M("scope.sessions.create(7)", ScopeError, "got int", f"session_id {ID}", "its text"),
    M("scope.sessions.create(title=7)", ValueNotStorable, "type int", "must be a str or None",
        "Nothing was written"),
    M("history.add_user_message('x'); scope.sessions.set_summary('monday', 'x', until=9)",
        ValueError, "got 9", "0 to 1", "Leave it out for all"),
    M("memory.session_history('monday')", TypeError, "2 were given", "takes 1",
        "session_history(*, user_id, module_id, session_id)"),
    M("history.last()", TypeError, "missing 1", "'n'", "called as last(n)"),
    M("history.page(0)", TypeError, "2 were given", "takes 1", "page(*, before=None, limit=50)"),
    M("history.window(100)", TypeError, "2 were given", "takes 1", "window(*, max_tokens"),
    M("scope.sessions(5)", TypeError, "2 were given", "takes 1", "sessions(*, limit=100"),
    M("scope.recall()", TypeError, "missing 1", "'query'", "called as recall(query"),
    M("scope.recall(None)", TypeError, "got NoneType", "query must be a str", "a few words"),
    M("scope.recall('canarySECRET7', k=3)", TypeError, "'k'", "it takes query, limit", "roles"),
    M("await scope.recall.arecall('canarySECRET7', k=3)", TypeError, "'k'", "it takes query",
        "limit"),
    M("scope.recall('x', since='canarySECRET7')", TypeError, "got str", "must be a date",
        "date.fromisoformat(text)"),
    M("scope.recall('x', since=datetime(2026, 1, 31))", ValueError, "without",
        "must have a time zone", "since.astimezone()"),
    M("scope.recall('x', since=timedelta(days=7))", TypeError, "got timedelta", "must be a date",
        "datetime.now(UTC) - span"),
    M("scope.recall('x', sessions=history)", TypeError, "got IsolatedChatMessageHistory",
        "must be a list of str", 'sessions=["monday"]'),
    M("scope.recall('x', channel=7)", TypeError, "got int", "must be a str", "leave it out"),
    M("scope.bm25_retriever().invoke(7)", TypeError, "got int", "must be a str", "one text"),
    M("memory.session_history(user_id='canaryUSER7', module_id='m', session_id=None)", ScopeError,
        "NoneType", f"session_id {ID}", NO_DEFAULT),
]  # fmt: skip

STORES = [
    M("store.put('facts', 'k', {'a': 1})", InvalidNamespaceError, "got str", "must be a tuple",
        '("label",)'),
    M("store.search('facts')", InvalidNamespaceError, "got str", "must be a tuple", '("label",)'),
    M("store.put((), 'k', {})", InvalidNamespaceError, "0 labels", "at least one", '("facts",)'),
    M("store.put(('langgraph',), 'k', {})", InvalidNamespaceError, "1 labels",
        "must not be 'langgraph'", "one of your own"),
    M("store.put(('a.b',), 'k', {})", InvalidNamespaceError, "3 characters",
        "must not be empty nor hold a period", "Replace them"),
    M("store.put((7,), 'k', {})", InvalidNamespaceError, "got int", "must be a str", "str(…)"),
    M("store.put(('facts',), 'k', 'canarySECRET7')", TypeError, "got str", "must be a mapping",
        'Write {"text": …}'),
    M("store.put(('facts',), 'k', {'f': lambda: 0})", ValueNotStorable, "builtins.function",
        "Store JSON values", "convert it first"),
    M("store.put(('facts',), 'k', {'a': 1}, ttl=timedelta(hours=1))", TypeError, "got timedelta",
        "must be minutes", "ttl=60 for an hour"),
    M("store.put(('facts',), 'k', {'a': 1}, ttl=-1)", ValueError, "got -1", "minutes", "Leave it"),
    M("store.search(('facts',), limit='5')", TypeError, "got str", "a whole number", "Give an int"),
    M("store.search(('facts',), filter='canarySECRET7')", TypeError, "got str", "must be a dict",
        '{"level": {"$gte": 2}}'),
    M("store.batch(['canarySECRET7'])", TypeError, "Unknown operation str", "takes GetOp",
        "Nothing was done"),
    M("memory.store().put(('facts',), 'k', {'a': 1})", ScopeError, "names no scope", "user_id",
        "memory.scope(…).store()"),
    M("scope.store(index=embeddings)", TypeError, "Determ", "index must be a dict",
        'index={"dims": 1536, "embed": embeddings}'),
    M("scope.store(index={'dims': 8})", ValueError, "without embed", "must name what embeds",
        '"embed": embeddings'),
    M("scope.store(index={'dims': '8', 'embed': embeddings})", ValueError, "got str",
        "dims must be a whole number", '"dims": 1536'),
    M("scope.store(ttl=3600)", TypeError, "got int", "ttl must be a dict", '{"default_ttl": 60}'),
    M("scope.store(ttl={'default_ttl': '1h'})", TypeError, "got str", "minutes", "ttl=60"),
    M("scope.store(integrity=True)", ValueError, "another bool", "'counted' or None", "Leave it"),
    M("scope.llm_cache(ttl=3600)", TypeError, "got int", "a timedelta", "timedelta(seconds=3600)"),
    M("scope.byte_store(7)", ScopeError, "got int", f"name {ID}", "its text"),
    M("scope.byte_store().mset({'a': b'1'})", TypeError, "one dict", "must be a list", "mset([("),
    M("scope.byte_store().mset([('a', 'canarySECRET7')])", ValueNotStorable, "type str",
        "it stores bytes alone", "text.encode()"),
    M("scope.byte_store().mget('ab')", TypeError, "one str", "must be a list", 'Write ["key"]'),
    M("scope.record_manager('')", ScopeError, "an empty string", f"name {ID}", NO_DEFAULT),
]  # fmt: skip

EMBEDS = "an object with embed_documents and embed_query"
RETRIEVAL = [
    M("scope.vector_store()", TypeError, "got neither", "embeddings, or wrapping=…",
        "vector_store(embeddings)"),
    M("scope.vector_store(shared)", TypeError, "got InMemoryVectorStore", "takes embeddings",
        "vector_store(wrapping=store)"),
    M("memory.vector_store(shared)", TypeError, "got InMemoryVectorStore", "takes embeddings",
        "vector_store(wrapping=store)"),
    M("scope.vector_store(embeddings, wrapping=shared)", TypeError, "got both", "not both",
        "vector_store(wrapping=store)"),
    M("scope.vector_store(DeterministicFakeEmbedding)", TypeError, "the class Determ", EMBEDS,
        "Make an instance: DeterministicFakeEmbedding(…)"),
    M("memory.vector_store(DeterministicFakeEmbedding)", TypeError, "the class Determ", EMBEDS,
        "Make an instance"),
    M("scope.vector_store('text-embedding-3')", TypeError, "got str", EMBEDS, "OpenAIEmbeddings("),
    M("scope.vector_store(embeddings=embeddings)", TypeError, "'embeddings'", "here it has",
        "given by position"),
    M("scope.vector_store(embeddings, collection_name='notes')", TypeError, "'collection_name'",
        "here it has collection", "Embeddings are given by position"),
    M("scope.vector_store(embeddings, collection=7)", ScopeError, "got int", f"collection {ID}",
        "its text"),
    M("scope.vector_store(embeddings, levels='private')", ScopeError, "got str", "a list of some",
        "Leave it out"),
    M("scope.vector_store(embeddings, levels=['user'])", ScopeError, "another first",
        'begin with "private"', "memory.publisher(…)"),
    M("scope.vector_store(wrapping='chroma')", TypeError, "got str", "an object of a LangChain",
        "Make the store first"),
    M("scope.vector_store(wrapping=InMemoryVectorStore)", TypeError, "the class InMemory",
        "an object of a LangChain", "Make the store first"),
    M("documents.add_texts('canarySECRET7')", TypeError, "one str", "must be a list", "[text]"),
    M("documents.add_texts([Document('canarySECRET7')])", TypeError, "got Document",
        "A text must be a str", "add_documents()"),
    M("documents.add_texts(['canarySECRET7'], {'year': 1})", TypeError, "one dict",
        "metadatas must be a list", "[metadata]"),
    M("documents.add_texts(['canarySECRET7'], [{}, {}])", ValueError, "2 metadatas for 1",
        "one for each", "Nothing was written"),
    M("documents.add_texts(['canarySECRET7'], ids='1')", TypeError, "one str", "a list of str",
        "Write [id]"),
    M("documents.add_texts(['canarySECRET7'], ids=[1])", TypeError, "got int", "must be a str",
        "str(…)"),
    M("documents.add_texts(['a', 'b'], ids=['1'])", ValueError, "1 ids for 2", "each needs one",
        "leave ids out"),
    M("documents.add_documents(Document('canarySECRET7'))", TypeError, "one Document",
        "must be a list", "[document]"),
    M("documents.add_documents(['canarySECRET7'])", TypeError, "a str among them", "Documents",
        "Document(text)"),
    M("documents.delete()", ValueError, "got None", "takes ids", "clear() removes every"),
    M("documents.delete('1')", TypeError, "one str", "a list of str", "Write [id]"),
    M("documents.similarity_search('x', k=0)", ValueError, "got 0", "above 0", "Leave it out"),
    M("documents.similarity_search(['canarySECRET7'])", TypeError, "got list", "must be a str",
        "one text at a time"),
    M("await documents.asimilarity_search(['canarySECRET7'])", TypeError, "got list",
        "must be a str", "one text at a time"),
    M("memory.vector_store(embeddings).similarity_search('x')", ScopeError, "names no scope",
        "user_id", "memory.using(scope)"),
    M("scope.retriever('chroma')", TypeError, "got str", "embeddings, a vector store or a",
        "Make an object"),
    M("memory.retriever(DeterministicFakeEmbedding)", TypeError, "the class Determ",
        "embeddings, a vector store or a retriever", "Make an object"),
    M("scope.retriever(embeddings, k=0)", ValueError, "got 0", "k must be 1 or more", "Leave it"),
    M("scope.retriever(embeddings, search_type='bm25')", ValueError, "another str",
        "search_type must be one of similarity", "scope.bm25_retriever()"),
    M("scope.retriever(embeddings, search_kwargs=4)", TypeError, "got int", "must be a dict",
        '{"fetch_k": 20}'),
    M("scope.retriever(scope.module('x').vector_store(embeddings))", ScopeError,
        "for another scope", "one of its own", "scope.vector_store(…)"),
    M("scope.vector_store(embedding=embeddings)", TypeError, "'embedding'", "here it has",
        "given by position"),
    M("scope.vector_store(wrapping=documents)", TypeError, "got IsolatedVectorStore",
        "another package's vector store", "Use it as it is"),
    M("documents.similarity_search('x', filter='canarySECRET7')", ValueError, "got str",
        "must be a mapping", 'filter={"year": 2026}'),
    M("scope.vector_store(wrapping=shared).add_texts(['x'], [{'langmem_owner': 1}])", ValueError,
        "begin with 'langmem_'", "reserved", "Rename them"),
    M("shared.add_texts(['canarySECRET7']); scope.retriever(shared.as_retriever()).invoke('x')",
        IsolationViolation, "no valid mark", "this scope", "scope.stamped(documents)"),
    M("scope.bm25_retriever(k=0)", ValueError, "got 0", "1 or more", "Leave it out"),
    M("scope.bm25_retriever(embeddings)", TypeError, "2 were given", "takes 1",
        "bm25_retriever(*, k=4"),
    M("scope.stamped(Document('canarySECRET7'))", TypeError, "one Document", "must be a list",
        "[document]"),
    M("scope.stamped(['canarySECRET7'])", TypeError, "a str among", "Documents", "Document(text)"),
    M("scope.recall_tool(k=3)", TypeError, "'k'", "is called as recall_tool", "limit=5"),
    M("memory.recall_tool(k=3)", TypeError, "no option k", "limit=", "ScopedMemory.recall_tool"),
    M("scope.profile_tool(k=3)", TypeError, "no option k", "max_characters=", "writes="),
    M("memory.recall_tool().invoke('x')", ScopeError, "names no scope", "user_id", "using(scope)"),
]  # fmt: skip

LIFE = [
    M("memory.claim('canarySECRET7', scope)", TypeError, "missing 1", "'confirmed'",
        "claim(anonymous_id, scope, *, confirmed"),
    M("memory.claim('canarySECRET7', scope, confirmed='yes')", ValueError, "got str",
        "must be True", "Ask the user first"),
    M("memory.claim(scope, 'canarySECRET7', confirmed=True)", ScopeError, "got str",
        "takes the scope of a user", "memory.scope("),
    M("memory.recover('canarySECRET7')", AnonymousNotFound, "expired, was claimed, or never was",
        "no anonymous session of that id", "memory.anonymous("),
    M("memory.anonymous('canarySECRET7')", TypeError, "2 were given", "takes 1", "anonymous(*,"),
    M("memory.anonymous(module_id='t', idle=3600)", TypeError, "got int", "a timedelta",
        "timedelta(days=30)"),
    M("memory.anonymous(module_id='t').cross_module()", ScopeError, "An anonymous session",
        "has one module", "profile()"),
    M("memory.anonymous(module_id='t').shared_from('u')", ScopeError, "got str",
        "has one module", "memory.scope("),
    M("scope.ephemeral().module('u')", ScopeError, "got str", "has one module", ".ephemeral()"),
    M("scope.ephemeral(read_long_term='no')", TypeError, "got str", "True or False",
        "read_long_term=True"),
    M("memory.ephemeral()", AttributeError, "no attribute 'ephemeral'", "one user's",
        "memory.scope(user_id=…, module_id=…).ephemeral"),
    M("e = scope.ephemeral(); e.close(); e.keep()", DatabaseError, "was closed", "before close()",
        "make a new"),
    M("memory.retention.keep('canarySECRET7', days=1)", ValueError, "got another",
        "one of message, session", "Nothing was changed"),
    M("memory.retention.keep('message')", ValueError, "none of them", "age, keep_latest", "days="),
    M("memory.retention.keep('message', days=timedelta(1))", TypeError, "got timedelta",
        "a whole number of 1", "age="),
    M("memory.retention.keep('message', age=90)", TypeError, "got int", "a timedelta",
        "timedelta(days=90)"),
    M("memory.retention.keep('message', days=10**12)", ValueError, "got more", "365,000 or less",
        "kept for ever"),
    M("memory.retention.keep('message', 90)", TypeError, "3 were given", "takes 2", "days=None"),
    M("memory.retention.remove('message')", PolicyNotFound, "no policy there", "list() and holds",
        "memory.retention.list()"),
    M("memory.retention.hold('canarySECRET7')", TypeError, "missing 2", "'reason' and 'by'",
        "hold(user_id, *"),
    M("memory.retention.hold('u', reason='r', by='b', until=datetime(2090, 1, 1))", ValueError,
        "a datetime without", "a time zone", "until.astimezone()"),
    M("memory.retention.hold('u', reason='r', by='b', until=7)", TypeError, "got int",
        "a timedelta or None", "timedelta(days=90)"),
    M("memory.retention.hold(scope, reason='r', by='b')", ScopeError, "got ScopedMemory",
        "user_id must be", "There is no default"),
    M("memory.sweep(timedelta(minutes=1))", TypeError, "got timedelta", "seconds as an int",
        "total_seconds()"),
    M("memory.sweep(dry_run='no')", TypeError, "got str", "True or False", "dry_run=True"),
    M("memory.sweep(progress=True)", TypeError, "got bool", "a function", "progress=lambda"),
    M("memory.retention.start(every='1h')", TypeError, "got str", "seconds", "or a timedelta"),
    M("scope.clear_session('canarySECRET7')", SessionNotFound, "no session of that id",
        "scope.sessions()", "Nothing was changed"),
    M("memory.clear_user(scope)", ScopeError, "got ScopedMemory", "user_id must be", "no default"),
    M("memory.stats(user_id='canarySECRET7')", TypeError, "'user_id'", "is called as stats",
        "module_id=None"),
    M("memory.stats(days='7')", TypeError, "got str", "a whole number", "how many days"),
    M("memory.quotas.set(tokens=3, per='week')", ValueError, "another str", '"day" or "month"',
        'per="day"'),
    M("memory.quotas.set(per='day')", ValueError, "got none", "tokens= or messages=",
        "memory.quotas.set("),
    M("memory.quotas.remove('canarySECRET7')", TypeError, "got str", "a quota of",
        "memory.quotas.list()"),
    M("memory.grants.allow(user_id='u', from_module='a', to_module='b', kinds='message')",
        TypeError, "one str", "must be a list", 'kinds=["message"]'),
    M("memory.grants.allow(user_id='u', from_module='a', to_module='b', kinds=['messages'])",
        ValueError, "got another", "some of message, item", 'kinds=["message"]'),
    M("memory.grants.allow(user_id='u', from_module='a', to_module='b', kinds=['item'], until=7)",
        TypeError, "got int", "a timedelta or None", "timedelta(days=7)"),
    M("memory.grants.allow('u', 'a', 'b', ['message'])", TypeError, "5 were given", "takes 1",
        "allow(*, user_id"),
    M("scope.shared_from('tutor')", ScopeError, "this scope itself", "another module's id",
        "Leave shared_from() out"),
    M("memory.merge_modules(user_id='u', from_module='a', to_module='b')", TypeError,
        "'to_module'", "is called as merge_modules", "into_module"),
    M("memory.merge_modules(user_id='u', from_module='a', into_module='b', dry_run=None)",
        TypeError, "got NoneType", "True or False", "dry_run=True"),
    M("memory.undo('canarySECRET7')", TypeError, "got str", "takes a MergeReceipt",
        "memory.receipts("),
    M("memory.copy_facts(user_id='u', from_module='a', to_module='b', facts=[])", ValueError,
        "got none", "one fact or more", "profile().facts()"),
    M("scope.profile().add_fact('canarySECRET7', time=datetime(2026, 1, 1))", ValueError,
        "one without", "a time zone", "datetime.now(UTC)"),
    M("scope.profile().merge()", ValueError, "got 0", "two or more", "correct()"),
    M("scope.profile().merge(['a', 'b'])", TypeError, "got list", "a Fact or its id",
        "each as an argument of its own"),
    M("scope.profile().update_attribute('level', 3)", TypeError, "got int", "must be a function",
        "lambda"),
    M("async def f(_): ...\nawait scope.profile().aupdate_attribute('level', f)", TypeError,
        "a coroutine function", "called without await", "lambda"),
    M("scope.sessions.list()", AttributeError, "attribute 'list'", "Sessions has",
        "scope.sessions()"),
    M("scope.sessions(before='canarySECRET7')", TypeError, "got str", "a Session or None",
        "the last session of the page"),
    M("scope.sessions.create(idle=3600)", TypeError, "got int", "a timedelta", "timedelta("),
    M("saver.rename_thread('canarySECRET7', 'x')", ThreadNotFound, "no thread of that id",
        "checkpointer.threads()", "Nothing was changed"),
    M("IsolatedMemory(own_url, root_key=root_key, session_rules={})", TypeError, "got dict",
        "SessionRules(…)", "session_rules=SessionRules("),
]  # fmt: skip

ORDERS = [
    CLOSED._replace(written=f"memory.close(); {call}")
    for call in (
        "history.messages",
        "history.add_user_message('canarySECRET7')",
        "memory.open()",
        "memory.__enter__()",
        "store.put(('f',), 'k', {'a': 1})",
        "scope.bind(graph).invoke(hi, {'configurable': {'thread_id': '1'}})",
        "await history.aget_messages()",
        "await store.aput(('f',), 'k', {'a': 1})",
        "documents.add_texts(['canarySECRET7'])",
        "scope.verify()",
        "scope.recall('x')",
    )
] + [
    CLOSED._replace(written="await memory.aclose(); await history.aclear()"),
    CLOSED._replace(written="await memory.__aexit__(None, None, None); history.count()"),
    M("memory.using(scope).__enter__(); memory.using(Scope('x', 'y')).__enter__()",
        IsolationViolation, "inside `using` of another scope", "leave the outer block first",
        "use the bound form"),
    M("next(1 for _ in [memory.using(scope)] if _.__enter__())", IsolationViolation,
        "A generator must not enter", "contextlib", "memory.scope(…).bind(graph)"),
    M("memory.of_run()", ScopeError, "names no scope", "user_id and module_id",
        "memory.using(scope)"),
    M("pickle.dumps(memory)", TypeError, "cannot be pickled", "open connections",
        "Make one in each process"),
    M("pickle.dumps(scope)", TypeError, "cannot be pickled", "open connections", "each process"),
    M("pickle.dumps(history)", TypeError, "cannot be pickled", "open connections", "each process"),
    M("copy.deepcopy(memory)", TypeError, "cannot be pickled or copied", "open connections",
        "share one"),
]  # fmt: skip

MISTAKES = [
    *URLS,
    *KEYS,
    *OPTIONS,
    *SCOPES,
    *CONSTRUCTORS,
    *GRAPHS,
    *HISTORIES,
    *STORES,
    *RETRIEVAL,
    *LIFE,
    *ORDERS,
]


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What a newcomer has at hand, in a folder of their own, without a root key around."""
    monkeypatch.chdir(tmp_path)
    for name in ("ROOT_KEY", "ROOT_KEY_FILE", "DATABASE", "KEY_STORE"):
        # Set first, so that what a mistake sets is undone.
        monkeypatch.setenv(f"LANGMEM_ISOLATED_{name}", "")
        monkeypatch.delenv(f"LANGMEM_ISOLATED_{name}")
    monkeypatch.setenv("HOME", str(tmp_path))
    imported: dict[str, Any] = {}
    exec(IMPORTED, imported)
    builder = StateGraph(MessagesState)
    builder.add_node("answer", lambda _: {"messages": [AIMessage("yes")]})
    builder.add_edge(START, "answer")
    embeddings, own_url = DeterministicFakeEmbedding(size=8), f"sqlite:///{tmp_path}/memory.db"
    with IsolatedMemory(own_url, root_key=LocalRootKey(ROOT_KEY)) as memory:
        scope = memory.scope(user_id=USER, module_id="tutor")
        yield {
            **imported,
            "memory": memory,
            "scope": scope,
            "root_key": LocalRootKey(ROOT_KEY),
            "key": KEY,
            "other_key": OTHER_KEY,
            "own_url": own_url,
            "url": "sqlite:///other.db",
            "history": scope.chat_history("monday"),
            "store": scope.store(),
            "saver": scope.checkpointer(),
            "documents": scope.vector_store(embeddings),
            "embeddings": embeddings,
            "shared": InMemoryVectorStore(embeddings),
            "builder": builder,
            "graph": builder.compile(),
            "hi": {"messages": [("user", "Hi")]},
            "anyone": builder.compile(checkpointer=memory.checkpointer()),
        }


async def run(written: str, names: dict[str, Any]) -> None:
    code = compile(written, "newcomer", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, names)
    if inspect.iscoroutine(result):
        await result


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.written)
async def test_a_mistake_is_told_with_what_was_given_what_was_expected_and_what_to_do(
    mistake: Mistake, names: dict[str, Any]
):
    with pytest.raises(mistake.error) as caught:
        await run(mistake.written, names)

    told = str(caught.value)
    parts = (mistake.received, mistake.expected, mistake.advice)
    assert [part for part in parts if part not in told] == [], told
    assert "\n" not in told
    assert len(told) < 700
    secrets = [SECRET.encode(), ROOT_KEY, OTHER_KEY, KEY.encode()]
    assert_shows_none_of(caught.value, [*secrets, USER.encode()])


class Missing(NamedTuple):
    """A package that is not installed, what is tried, and what the error says."""

    package: str
    written: str
    error: str
    extra: str


MISSING = [
    Missing("psycopg", "IsolatedMemory('postgresql://h/a')", "DatabaseError", "postgres"),
    Missing("psycopg", "IsolatedMemory('postgres://h/a')", "DatabaseError", "postgres"),
    Missing("numpy", "scope.vector_store(embeddings)", "ImportError", "vector"),
    Missing(
        "numpy", "scope.store(index={'dims': 8, 'embed': embeddings})", "ImportError", "vector"
    ),
    Missing("langchain", "memory.middleware()", "ImportError", "agents"),
    Missing("langchain", "scope.middleware()", "ImportError", "agents"),
]
WITHOUT = """
import sys
sys.modules["{package}"] = None
from langmem_isolated import IsolatedMemory, LocalRootKey
class Embeddings:
    def embed_documents(self, texts): return [[1.0] * 8 for _ in texts]
    def embed_query(self, text): return [1.0] * 8
embeddings = Embeddings()
memory = IsolatedMemory("sqlite://", root_key=LocalRootKey(bytes(32)))
scope = memory.scope(user_id="alice", module_id="tutor")
try:
    {written}
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("missing", MISSING, ids=lambda missing: missing.written)
def test_an_extra_that_is_missing_is_named_with_the_command_that_installs_it(missing: Missing):
    code = WITHOUT.format(**missing._asdict())
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, env=environment, text=True
    ).stdout

    assert told.startswith(missing.error)
    assert f"pip install 'langmem-isolated[{missing.extra}]'" in told


def command(*arguments: str, key: str = KEY) -> str:
    """What the command line says, in one line."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "LANGMEM_ISOLATED_ROOT_KEY": key}
    ran = subprocess.run(
        [sys.executable, "-m", "langmem_isolated", *arguments],
        capture_output=True,
        check=False,
        env=environment,
        text=True,
    )
    return " ".join((ran.stdout + ran.stderr).split())


def test_the_command_line_says_where_it_looked_and_what_to_ask_instead(names: dict[str, Any]):
    url = "--database=sqlite:///memory.db"
    asked = ("--user", USER, "--module", "tutor")
    names["scope"].bind(names["graph"]).invoke(
        names["hi"], {"configurable": {"thread_id": "chat-1"}}
    )

    unset = command("threads", *asked)
    assert "langmem-isolated.db in this folder, where it is looked for by default" in unset
    assert "--database or LANGMEM_ISOLATED_DATABASE" in unset
    assert "langmem-isolated threads" in command("sessions", *asked, url)
    assert "langmem-isolated sessions" in command("threads", "--user=x", "--module=y", url)
    assert "A LangGraph thread has it" in command("show", "chat-1", *asked, url)
    assert "`langmem-isolated sessions` lists" in command("show", "monday", *asked, url)
    other = base64.b64encode(OTHER_KEY).decode()
    assert "keygen` makes another" in command("modules", "--user=x", url, key=other)
    for at in ("doctor", "modules --user=x"):
        told = command(*at.split(), url, "--key-store=sqlite:///keys.db")
        assert "--key-store or LANGMEM_ISOLATED_KEY_STORE" in told


def test_what_must_be_a_message_is_not_advised_to_be_something_else(names: dict[str, Any]):
    for given in ({"role": "user", "content": SECRET}, ("user", SECRET), SECRET, 7):
        with pytest.raises(ValueNotStorable) as caught:
            names["history"].add_message(given)
        told = str(caught.value)
        assert told.endswith("langchain_core.messages.convert_to_messages(…).")
        assert "JSON values" not in told
        assert SECRET not in told


def test_the_table_has_a_newcomers_mistakes_of_every_kind():
    kinds = (URLS, KEYS, OPTIONS, SCOPES, CONSTRUCTORS, GRAPHS, HISTORIES, STORES, RETRIEVAL)

    assert len({mistake.written for mistake in MISTAKES}) == len(MISTAKES) >= 135
    assert all(len(kind) >= 15 for kind in kinds)
    assert len(ORDERS) >= 15


@pytest.mark.parametrize(
    "text",
    [f" {KEY}\n", KEY, base64.urlsafe_b64encode(ROOT_KEY).decode()],
    ids=["with a line's end", "as keygen prints it", "where both alphabets agree"],
)
def test_a_key_that_is_one_is_read(text: str):
    assert LocalRootKey.from_text(text).key_id == LocalRootKey(ROOT_KEY).key_id


def test_an_old_name_of_postgresql_is_accepted(postgres_url: str, root_key: LocalRootKey):
    url = postgres_url.replace("postgresql://", "postgres://")

    with IsolatedMemory(url, root_key=root_key) as memory:
        history = memory.scope(user_id="alice", module_id="tutor").chat_history("monday")
        history.add_user_message("Hi")
        assert history.count() == 1


def test_a_driver_that_is_ours_may_be_named(postgres_url: str, root_key: LocalRootKey):
    for scheme in ("postgresql+psycopg://", "postgres+psycopg://"):
        url = postgres_url.replace("postgresql://", scheme)
        IsolatedMemory(url, root_key=root_key).open().close()
    IsolatedMemory("sqlite+pysqlite://", root_key=root_key).open().close()


def test_a_wrong_port_is_told_without_a_word_of_writes():
    memory = IsolatedMemory(
        "postgresql://u:p@127.0.0.1:1/a", root_key=LocalRootKey(ROOT_KEY), timeout=2
    )
    with pytest.raises(DatabaseUnreachable) as caught:
        memory.open()
    memory.close()

    assert "stored" not in str(caught.value)
    assert "committed" not in str(caught.value)


def test_a_wrong_question_of_a_model_is_refused_without_being_quoted(memory: IsolatedMemory):
    tool = memory.scope(user_id=USER, module_id="tutor").recall_tool()

    with pytest.raises(ValidationError) as caught:
        tool.invoke({"question": SECRET})

    assert "query\n  Field required" in str(caught.value)
    assert SECRET not in str(caught.value)
