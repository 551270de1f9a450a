"""The resolver: what speaks for a call, what fills a gap, and what is refused."""

import copy
import json
import pickle
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.runtime import DEFAULT_RUNTIME, Runtime

from langmem_isolated import IsolatedMemory, LocalRootKey, Scope
from langmem_isolated._adapters.compat import RUNTIME_KEY
from langmem_isolated._adapters.config_keys import ConfigKeys
from langmem_isolated._adapters.run_scope import RunScopes, ScopeFinder, refuse_another
from langmem_isolated._adapters.using import Using
from langmem_isolated.errors import IsolationViolation, ScopeError
from langmem_isolated.scope import ScopedThreadId, plain_id

ALICE, BOB, PLANNER = Scope("alice", "m"), Scope("bob", "m"), Scope("alice", "planner")
KEYS = ConfigKeys()


def finder(resolver: Any = None) -> ScopeFinder:
    return ScopeFinder(KEYS, RunScopes(), resolver)


def naming(scope: Scope | None = None, **more: Any) -> RunnableConfig:
    return {"configurable": {**(KEYS.naming(scope) if scope else {}), **more}}


def inside(run: RunnableConfig, call: Callable[[], Any]) -> Any:
    """What ``call`` returns inside a run with that config."""
    return RunnableLambda(lambda _: call()).invoke(None, run)


def handed_out(scope: Scope, namespace: str, **more: Any) -> RunnableConfig:
    thread_id = ScopedThreadId("t", scope)
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": namespace, **more}}


# --- what speaks ----------------------------------------------------------------------------------


def test_each_of_what_speaks_names_the_scope_alone():
    assert finder().of_call(naming(ALICE)) == ALICE
    assert finder(lambda _: ALICE).of_call(None) == ALICE
    assert finder().of_call(handed_out(ALICE, "team:1")) == ALICE
    with Using(ALICE):
        assert finder().of_call(None) == ALICE
    assert inside(naming(ALICE), lambda: finder().of_call(None)) == ALICE
    assert inside(naming(ALICE), finder().of_run) == ALICE


DISAGREEING: dict[str, Callable[[], Any]] = {
    "keys, resolver": lambda: finder(lambda _: BOB).of_call(naming(ALICE)),
    "a part, resolver": lambda: finder(lambda _: BOB).of_call(naming(user_id="alice")),
    "a project, resolver": lambda: finder(lambda _: BOB).of_call(naming(project_id="p")),
    "keys, handed out": lambda: finder().of_call(
        handed_out(ALICE, "ns", user_id="bob", module_id="m")
    ),
    "handed out, resolver": lambda: finder(lambda _: BOB).of_call(handed_out(ALICE, "ns")),
    "keys, resolver, in a run": lambda: inside(naming(ALICE), finder(lambda _: BOB).of_run),
}


@pytest.mark.parametrize("case", DISAGREEING)
def test_what_speaks_must_agree(case: str):
    with pytest.raises(IsolationViolation, match="name different scopes"):
        DISAGREEING[case]()


AROUND: dict[str, Callable[[], Any]] = {
    "keys": lambda: finder().of_call(naming(ALICE)),
    "handed out": lambda: finder().of_call(handed_out(ALICE, "ns")),
    "resolver": lambda: finder(lambda _: ALICE).of_call(None),
    "the run's config": lambda: inside(naming(ALICE), lambda: finder().of_call(None)),
    "the run of a store": lambda: inside(naming(ALICE), finder().of_run),
    "a part of the run's config": lambda: inside(
        naming(user_id="alice"), lambda: finder(lambda _: BOB).of_call(None)
    ),
}


@pytest.mark.parametrize("case", AROUND)
def test_a_surrounding_using_of_another_is_refused(case: str):
    with Using(BOB), pytest.raises(IsolationViolation, match="surrounding `using`"):
        AROUND[case]()


@pytest.mark.parametrize("case", [case for case in AROUND if case != "a part of the run's config"])
def test_a_surrounding_using_of_the_same_is_fine(case: str):
    with Using(ALICE):
        assert AROUND[case]() == ALICE


def test_the_calls_own_config_goes_before_the_runs_and_that_before_using():
    own, run = naming(PLANNER), naming(ALICE)

    assert inside(run, lambda: finder().of_call(own)) == PLANNER
    with Using(ALICE):
        assert inside(run, lambda: finder().of_call(None)) == ALICE


@pytest.mark.parametrize("config", [None, {}, {"configurable": {}}, naming(thread_id="t")])
def test_where_nothing_names_a_scope_the_way_out_is_told(config: Any):
    with pytest.raises(ScopeError, match=r"user_id and module_id .*bind") as raised:
        finder().of_call(config)
    assert "memory.of_run().bind(child)" in str(raised.value)


@pytest.mark.parametrize(
    ("parts", "missing"),
    [({"user_id": "alice"}, "module_id"), ({"module_id": "m"}, "user_id")],
)
def test_half_a_scope_names_the_part_that_is_missing(parts: dict[str, str], missing: str):
    for around in (nullcontext(), Using(ALICE)):
        with around, pytest.raises(ScopeError, match=f"{missing} is missing .*config_keys"):
            finder().of_call(naming(**parts))


@pytest.mark.parametrize("value", [None, "", 7, b"alice", "al\nice", ["alice"]])
def test_a_malformed_part_is_refused_by_type_and_never_told(value: Any):
    with pytest.raises(ScopeError, match="user_id must be"):
        finder().of_call(naming(user_id=value, module_id="m"))


# --- resolvers ------------------------------------------------------------------------------------


def test_a_resolver_without_an_opinion_leaves_it_to_the_rest():
    nobody = finder(lambda _: None)

    assert nobody.of_call(naming(ALICE)) == ALICE
    with Using(BOB):
        assert nobody.of_call(None) == BOB
    with pytest.raises(ScopeError):
        nobody.of_call(None)


def test_a_resolver_is_asked_with_the_runs_config_and_over_it_the_calls_own():
    asked: list[RunnableConfig] = []
    resolved = finder(lambda config: asked.append(config) or ALICE)

    resolved.of_call(None)
    inside(naming(login="a", thread_id="outer"), lambda: resolved.of_call(naming(thread_id="t")))

    assert asked[0]["configurable"] == {}
    assert asked[1]["configurable"] == {"login": "a", "thread_id": "t"}


def test_a_resolver_is_asked_once_a_run_and_at_every_call_outside_of_one():
    asked: list[RunnableConfig] = []
    resolved = finder(lambda config: asked.append(config) or ALICE)
    run = naming(**{RUNTIME_KEY: Runtime()})

    for _ in range(3):
        assert resolved.of_call(run, of_loop=True) == ALICE
    assert len(asked) == 1
    for _ in range(3):
        resolved.of_call(naming(**{RUNTIME_KEY: DEFAULT_RUNTIME}))
    assert len(asked) == 4


def test_what_a_resolver_answered_in_a_task_is_no_other_adapters():
    runs, run = RunScopes(), naming(**{RUNTIME_KEY: Runtime()})

    assert ScopeFinder(KEYS, runs, lambda _: ALICE).of_call(run) == ALICE
    with pytest.raises(ScopeError):
        ScopeFinder(KEYS, runs).of_call(run)


@pytest.mark.parametrize("answer", ["alice", ("alice", "m"), object(), True])
def test_a_resolver_that_returns_something_else_is_refused(answer: Any):
    with pytest.raises(ScopeError, match="must return a Scope or None, got"):
        finder(lambda _: answer).of_call(None)


def test_what_a_resolver_raises_comes_through():
    with pytest.raises(KeyError):
        finder(lambda config: config["configurable"]["token"]).of_call(None)


@pytest.mark.parametrize("resolver", ["alice", ALICE, 7])
def test_a_resolver_that_cannot_be_called_is_refused_at_the_door(
    sqlite_url: str, root_key: LocalRootKey, resolver: Any
):
    memory = IsolatedMemory(sqlite_url, root_key=root_key)
    for door in (
        memory.checkpointer,
        memory.store,
        memory.llm_cache,
        memory.node_cache,
        memory.middleware,
        memory.callback_handler,
        memory.recall_tool,
        memory.of_run,
    ):
        with pytest.raises(TypeError, match="scope_resolver must be a function"):
            door(scope_resolver=resolver)


# --- the same run ---------------------------------------------------------------------------------


def test_what_was_found_for_a_run_is_found_again_where_nothing_is_told():
    found, run = finder(), naming(**{RUNTIME_KEY: Runtime()})
    with Using(ALICE):
        found.of_call(run, of_loop=True)

    later: list[Scope] = []
    thread = threading.Thread(target=lambda: later.append(found.of_call(run)))
    thread.start()
    thread.join()

    assert later == [ALICE]
    with pytest.raises(IsolationViolation, match="the run so far"):
        found.of_call(naming(BOB, **run["configurable"]))
    with Using(BOB), pytest.raises(IsolationViolation):
        found.of_call(run)
    with pytest.raises(ScopeError):
        found.of_call(naming(**{RUNTIME_KEY: Runtime()}))


def test_the_stand_in_for_no_run_is_never_remembered():
    found, none = finder(), naming(**{RUNTIME_KEY: DEFAULT_RUNTIME})
    with Using(ALICE):
        found.of_call(none, of_loop=True)

    with pytest.raises(ScopeError):
        found.of_call(none)


def test_runs_that_are_remembered_are_bounded_and_the_least_used_goes():
    runs, runtimes = RunScopes(most=3), [object() for _ in range(4)]
    for runtime in runtimes[:3]:
        runs.put(runtime, ALICE)
    runs.get(runtimes[0])
    runs.put(runtimes[3], BOB)

    assert [runs.get(one) for one in runtimes] == [ALICE, None, ALICE, BOB]
    runs.put(runtimes[0], BOB)
    runs.put(runtimes[0], ALICE)
    assert runs.get(runtimes[0]) is None
    assert runs.get(None) is None


def test_what_is_remembered_never_names_an_object_that_came_later():
    runs = RunScopes(most=8)
    for _ in range(2_000):
        runtime = object()
        assert runs.get(runtime) is None
        runs.put(runtime, ALICE)
        del runtime


# --- ids of threads that were handed out ----------------------------------------------------------


def test_an_id_handed_out_counts_with_a_namespace_and_outside_of_a_run_only():
    with pytest.raises(ScopeError):
        finder().of_call(handed_out(ALICE, ""))
    # A table of the application's threads gave Alice's id to Bob, whose graph has a subgraph.
    for runtime in (Runtime(), object()):
        bobs = handed_out(ALICE, "team:1", **{RUNTIME_KEY: runtime})
        with Using(BOB):
            assert finder().of_call(bobs) == BOB
        with pytest.raises(ScopeError):
            finder().of_call(bobs)
        assert inside(naming(BOB), lambda bobs=bobs: finder().of_call(bobs)) == BOB


def test_an_id_handed_out_is_the_plain_id_and_copies_keep_its_scope():
    one = ScopedThreadId("t", ALICE)

    assert (one, hash(one), str(one), f"{one}", repr(one)) == ("t", hash("t"), "t", "t", "'t'")
    assert {"t": 1}[one] == 1
    for copied in (copy.copy(one), copy.deepcopy({"id": one})["id"]):
        assert type(copied) is ScopedThreadId
        assert copied.scope == ALICE
    assert json.loads(json.dumps({one: one})) == {"t": "t"}
    assert type(pickle.loads(pickle.dumps(one))) is str
    assert (type(plain_id(one)), plain_id("t"), plain_id(None)) == (str, "t", None)


# --- bound objects --------------------------------------------------------------------------------


def test_a_bound_object_refuses_a_config_of_another_and_looks_at_no_gap():
    for config in (
        naming(BOB),
        naming(user_id="bob"),
        naming(PLANNER),
        naming(project_id="p"),
        handed_out(BOB, "team:1"),
    ):
        with pytest.raises(IsolationViolation):
            refuse_another(ALICE, KEYS, config)
    for config in (None, {}, naming(ALICE), naming(module_id="m"), handed_out(BOB, "")):
        refuse_another(ALICE, KEYS, config)
    with Using(BOB):
        refuse_another(ALICE, KEYS, naming(thread_id="t"))
        inside(naming(BOB), lambda: refuse_another(ALICE, KEYS, naming(thread_id="t")))


# --- names of keys --------------------------------------------------------------------------------


def test_an_application_names_its_keys_once():
    keys = ConfigKeys.of({"user_id": "memory_user", "project_id": "tenant"})
    found = ScopeFinder(keys, RunScopes())
    tenant = Scope("alice", "m", project_id="p")
    config = naming(user_id="Alice A.", memory_user="alice", module_id="m", tenant="p")

    assert found.of_call(config) == tenant
    assert keys.naming(tenant) == {"memory_user": "alice", "module_id": "m", "tenant": "p"}
    refuse_another(tenant, keys, config)
    with pytest.raises(ScopeError, match="memory_user and module_id"):
        found.of_call(naming(user_id="Alice A."))


@pytest.mark.parametrize(
    ("names", "error"),
    [
        ("user_id", TypeError),
        ({"session_id": "s"}, TypeError),
        ({"user_id": ""}, ScopeError),
        ({"user_id": None}, ScopeError),
        ({"user_id": "module_id"}, ScopeError),
        ({"user_id": "who", "module_id": "who"}, ScopeError),
    ],
)
def test_names_of_keys_are_checked(names: Any, error: type[Exception]):
    with pytest.raises(error, match="config"):
        ConfigKeys.of(names)


def test_no_error_tells_an_id():
    told = []
    for call in (*DISAGREEING.values(), lambda: finder().of_call(naming(user_id="alice"))):
        with pytest.raises((ScopeError, IsolationViolation)) as raised:
            call()
        told.append(str(raised.value))

    assert not [text for text in told if "alice" in text or "bob" in text]
