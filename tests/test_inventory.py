"""Every kind of record, every table and every adapter is in statistics, sweep and clear, or is left
out for a reason that is said here: a new one that is in neither fails."""

from collections import Counter
from datetime import timedelta

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import Generation
from langchain_core.vectorstores import InMemoryVectorStore

from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._database import schema
from langmem_isolated.lifecycle import (
    COUNTED,
    NOT_COUNTED,
    AnonymousSessions,
    EphemeralLife,
    MemoryLifecycle,
    ScopeLifecycle,
)
from tests.conftest import Attacker, Wait
from tests.embeddings import NGramEmbeddings
from tests.threads import at, put

# Nothing writes these yet.
RESERVED = {Kind.BLIND_INDEX, Kind.AUDIT, Kind.NODE_CACHE}
# What is there for users alone who hold their own keys; see `test_user_held_keys.py`: counted in
# `lock_state`, cleared and erased with what it is for, verified, and never expires by itself.
OF_LOCKED_USERS = {Kind.INBOX}
# What is a row of a table of its own, and no record.
ROWS = {Kind.SCOPE: "scopes", Kind.USAGE: "usage"}
CONTAINERS = {Kind.SESSION, Kind.THREAD, Kind.COLLECTION}
# What a clear leaves.
OF_THE_ACCOUNT = {
    Kind.POLICY: "how long a user's memory is kept outlasts what is kept",
    Kind.CLAIM: "it says how long a guest lives, or that a guest was claimed once",
    Kind.STORE_NOTE: "documents in third-party stores stay, for an erasure to find",
}
# What no time ends, and no policy.
WITHOUT_AN_END = {
    Kind.PROFILE: "a fact is true until its user or a model says otherwise; a clear removes it",
    Kind.POLICY: "an operator's word holds until another one",
    Kind.CLAIM: "that a guest was claimed is known for 30 days; a guest's own goes with the guest",
    Kind.STORE_NOTE: "what was written elsewhere may be there yet",
}
# A module's ledger stays, which says that no grant of it is in force.
LEDGERS = Counter({Kind.GRANT: 1})
# Tables without a scope's rows, or whose rows go with the scope.
TABLES = {
    "installation": "of the whole database",
    "keys": "go with an erasure, and with a guest",
    "key_sets": "go with an erasure, and with a guest",
    "scopes": "counted; the account, which a clear leaves",
    "key_uses": "go with the scope",
    "usage": "what days are told from; goes with the scope",
    "sessions": "counted, swept and cleared by the kinds of its rows",
    "records": "counted, swept and cleared by the kinds of its rows",
    "tombstones": "who was erased; swept when the time that it is kept for is over",
    "erasures": "of operators: what was erased, without anybody's id",
    "audit": "who did what; swept when the time that it is kept for is over, never cleared",
    "audit_chains": "where the chains of the audit log begin and end",
}
# What a memory has in the process, and what an erasure does with it.
IN_MEMORY = {
    "database": "the tables, see there",
    "keyring": "drops the keys of the principal",
    "element_caches": "numbers, MACs and fingerprints of elements; no plaintext",
    "plaintext_cache": "is cleared",
    "known_stores": "third-party stores, which are cleared of the owner's documents",
    "config_keys": "names of keys of a config",
    "run_scopes": "which scope a run of LangGraph is of, as long as it runs",
    "limits": "numbers",
    "session_rules": "numbers",
    "audited": "for a second, how often whose memory was recalled or read; no keys",
}
# By its adapter, what of a scope's memory writes.
ADAPTERS = {
    "chat_history": "sessions and messages",
    "checkpointer": "threads, checkpoints, writes, elements",
    "store": "items and vectors",
    "vector_store": "collections, documents, embeddings; of wrapped ones store notes",
    "llm_cache": "entries",
    "node_cache": "entries",
    "byte_store": "entries",
    "record_manager": "entries",
    "middleware": "what chat_history writes",
    "callback_handler": "what chat_history writes",
    "profile_tool": "profiles",
    "bind": "what checkpointer, store and node_cache write",
    "bm25_retriever": "nothing",
    "retriever": "nothing",
    "recall_tool": "nothing",
    "ephemeral": "nothing, until it is kept by what copies",
}


def embeddings() -> NGramEmbeddings:
    return NGramEmbeddings()


def fill(memory: IsolatedMemory, scope: ScopedMemory, soon: timedelta | None) -> None:
    """Something of every kind, which expires ``soon`` where it can."""
    minutes = None if soon is None else soon / timedelta(minutes=1)
    scope.sessions.create("s", idle=soon)
    scope.chat_history("s").add_messages([HumanMessage("a secret"), AIMessage("kept")])
    scope.recall("secret", embeddings=embeddings())
    saver = scope.checkpointer(ttl=soon)
    config = put(saver, at("t"), {"messages": [HumanMessage("long " * 400, id="1")]})
    saver.put_writes(config, [("a", 1)], "task")
    scope.store(index={"embed": embeddings(), "dims": 64}).put(
        ("facts",), "one", {"text": "a secret"}, ttl=minutes
    )
    scope.vector_store(embeddings()).add_texts(["a secret"])
    scope.llm_cache(ttl=soon).update("prompt", "model", [Generation(text="answer")])
    scope.profile().add_fact("a secret")


def kinds_in(attacker: Attacker) -> Counter[Kind]:
    rows = attacker("SELECT kind FROM records UNION ALL SELECT kind FROM sessions")
    return Counter(Kind(kind) for (kind,) in rows)


def operate(memory: IsolatedMemory, soon: timedelta | None) -> None:
    """What operators and claims write about the user."""
    user = {"user_id": "alice"}
    modules = {"from_module": "tutor", "to_module": "planner"}
    memory.retention.keep("message", **user, days=365)
    memory.grants.allow(**user, **modules, kinds=["message"], until=soon)
    memory.merge_modules(**user, from_module="tutor", into_module="planner", dry_run=False)
    elsewhere = InMemoryVectorStore(embeddings())
    memory._context.known_stores.include(elsewhere)
    alice = memory.scope(**user, module_id="tutor")
    alice.vector_store(wrapping=elsewhere).add_texts(["a secret"])
    guest = memory.anonymous(module_id="tutor", idle=soon or timedelta(days=1))
    memory.claim(guest.id, alice, confirmed=True)
    memory.anonymous(module_id="tutor", idle=soon or timedelta(days=1))


def test_every_kind_is_written_by_what_fills_a_scope_or_is_reserved(
    memory: IsolatedMemory, attacker: Attacker
):
    fill(memory, memory.scope(user_id="alice", module_id="tutor"), None)
    operate(memory, None)

    written = {*kinds_in(attacker), *ROWS}
    assert written | RESERVED | OF_LOCKED_USERS == {*Kind}
    assert all(attacker(f"SELECT count(*) FROM {table}")[0][0] for table in ROWS.values())


def test_every_kind_is_counted_in_statistics_or_is_not_for_a_reason(
    memory: IsolatedMemory, attacker: Attacker
):
    fill(memory, memory.scope(user_id="alice", module_id="tutor"), None)
    operate(memory, None)

    stats, stored = memory.stats(), kinds_in(attacker)
    stored[Kind.SCOPE] = attacker("SELECT count(*) FROM scopes")[0][0]

    assert COUNTED.keys() | NOT_COUNTED.keys() == {*Kind}
    assert COUNTED.keys() & NOT_COUNTED.keys() == set()
    counted = {kind: getattr(stats.total, name) for kind, name in COUNTED.items()}
    assert counted == {kind: stored[kind] for kind in COUNTED}


def test_every_kind_is_cleared_or_is_of_the_account(memory: IsolatedMemory, attacker: Attacker):
    fill(memory, memory.scope(user_id="alice", module_id="tutor"), None)
    operate(memory, None)

    memory.clear_user("alice")

    assert {*kinds_in(attacker)} == OF_THE_ACCOUNT.keys()


def test_every_kind_is_swept_when_its_time_is_over_or_has_no_end(
    memory: IsolatedMemory, attacker: Attacker, wait_for: Wait
):
    scope = memory.scope(user_id="alice", module_id="tutor")
    soon = timedelta(seconds=60)
    fill(memory, scope, soon)
    operate(memory, soon)
    for kind in ("session", "thread", "item", "document", "entry", "receipt"):
        memory.retention.keep(kind, age=timedelta(microseconds=1))
    wait_for(soon.total_seconds() + 0.1)

    swept = memory.sweep()

    assert (swept.is_done, swept.damaged) == (True, 0)
    left = kinds_in(attacker) - LEDGERS
    assert {*left} - WITHOUT_AN_END.keys() - {Kind.COLLECTION} == set()
    assert attacker("SELECT count(*) FROM scopes WHERE level = 5") == [(0,)]


def test_every_cache_of_a_memory_lets_go_of_who_was_erased_or_has_nothing_of_them(
    sqlite_url: str, root_key: LocalRootKey
):
    with IsolatedMemory(sqlite_url, root_key=root_key, plaintext_cache_seconds=60) as memory:
        for user in ("alice", "bob"):
            fill(memory, memory.scope(user_id=user, module_id="tutor"), None)
        cache = memory._context.plaintext_cache
        assert cache is not None
        assert len(cache._entries)

        memory.erase_user("alice")

        assert set(memory._context._fields) == IN_MEMORY.keys()
        assert {owner.user for owner in memory._keyring._cache} == {"bob"}
        assert len(cache._entries) == 0


def test_every_table_is_in_statistics_sweep_and_clear_or_is_left_out_for_a_reason():
    assert TABLES.keys() == schema.metadata.tables.keys()


def test_every_adapter_writes_kinds_that_are_in_them():
    made = {
        name
        for name in dir(ScopedMemory)
        if not name.startswith("_") and name != "scope" and hasattr(IsolatedMemory, name)
    }

    assert {name for name in made if name not in ADAPTERS and not is_lifecycle(name)} == set()


def is_lifecycle(name: str) -> bool:
    """Whether it is a method of the life of memory, which makes no adapter, or an async form."""
    homes = (MemoryLifecycle, ScopeLifecycle, EphemeralLife, AnonymousSessions)
    return any(hasattr(home, name) for home in homes)
