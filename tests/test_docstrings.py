"""Examples in docstrings run, and every public object has one."""

import doctest
import importlib
import pydoc
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.vectorstores import InMemoryVectorStore
from langgraph.graph import START, MessagesState, StateGraph

import langmem_isolated
from langmem_isolated import IsolatedMemory, LocalRootKey, errors, lifecycle, wrapping
from langmem_isolated import testing as kit
from langmem_isolated.wrapping import testing

# A union of other public names, which has no docstring of its own, and texts.
NO_OBJECTS = {"Condition", "FAILURE", "__version__"}
PUBLIC = {
    **{name: (langmem_isolated, name) for name in langmem_isolated.__all__},
    **{f"wrapping.{name}": (wrapping, name) for name in wrapping.__all__},
    **{f"testing.{name}": (kit, name) for name in kit.__all__},
    "wrapping.testing.VectorStoreAdapterTests": (testing, "VectorStoreAdapterTests"),
}
OBJECTS = {path: found for path, found in PUBLIC.items() if found[1] not in NO_OBJECTS}
# Of errors those that a newcomer meets; the others are met by tampering.
MET = ["ScopeError", "IsolationViolation", "RootKeyInvalid", "SessionNotFound", "DatabaseError"]
MET += ["ProfileEntryNotFound", "ProfileFull"]
OBJECTS |= {f"errors.{name}": (errors, name) for name in MET}
# Of what the life of memory gives, beside what the package exports itself.
GIVEN = ["FactSource", "Interest", "ModuleComparison", "ProfileCleared"]
OBJECTS |= {f"lifecycle.{name}": (lifecycle, name) for name in GIVEN}
OPTIONS = doctest.ELLIPSIS


def answer(state: MessagesState) -> dict[str, Any]:
    return {"messages": [("ai", f"I have heard {len(state['messages'])}.")]}


@pytest.fixture
def at_hand(
    sqlite_url: str, root_key: LocalRootKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Any]]:
    """What examples take for granted, as `CONTRIBUTING.md` says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LANGMEM_ISOLATED_ROOT_KEY", LocalRootKey.generate_text())
    embeddings = DeterministicFakeEmbedding(size=8)
    builder = StateGraph(MessagesState).add_node("answer", answer).add_edge(START, "answer")
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        yield {
            "memory": memory,
            "scope": memory.scope(user_id="alice", module_id="tutor"),
            "root_key": root_key,
            "builder": builder,
            "embeddings": embeddings,
            "shared": InMemoryVectorStore(embeddings),
            "HumanMessage": HumanMessage,
            "AIMessage": AIMessage,
            "Document": Document,
            "InMemoryVectorStore": InMemoryVectorStore,
            "pytest": pytest,
            "MessagesState": MessagesState,
            "START": START,
            "StateGraph": StateGraph,
            **{name: getattr(kit, name) for name in kit.__all__},
        }


def examples_of(found: object, name: str, names: dict[str, Any]) -> list[doctest.DocTest]:
    """The examples of an object's own docstring; its module's names come with it."""
    home = importlib.import_module(getattr(found, "__module__", "langmem_isolated"))
    # Asked for by name: some are loaded when they are.
    public = {one: getattr(langmem_isolated, one) for one in langmem_isolated.__all__}
    tests = doctest.DocTestFinder(recurse=False).find(
        found, name, module=False, globs={**public, **vars(home), **names}
    )
    return [test for test in tests if test.examples]


def failures_of(tests: list[doctest.DocTest]) -> str:
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    for test in tests:
        runner.run(test, out=told.append)
    return "".join(told)


@pytest.mark.parametrize("path", OBJECTS)
def test_every_public_object_has_an_example_in_its_docstring_which_runs(
    path: str, at_hand: dict[str, Any]
):
    module, name = OBJECTS[path]
    tests = examples_of(getattr(module, name), name, at_hand)

    assert tests
    assert failures_of(tests) == ""


@pytest.mark.parametrize("path", [path for path in PUBLIC if path not in OBJECTS])
def test_what_has_no_docstring_of_its_own_is_no_class_and_no_function(path: str):
    module, name = PUBLIC[path]

    assert not callable(getattr(module, name))


def test_help_of_the_package_begins_with_a_quickstart_which_runs(at_hand: dict[str, Any]):
    told = pydoc.plain(pydoc.render_doc(langmem_isolated))
    begin = told.partition("DESCRIPTION")[2] or told.partition("NAME")[2]
    tests = doctest.DocTestFinder(recurse=False).find(langmem_isolated, "quickstart", globs={})

    assert "langmem-isolated keygen" in begin[:600]
    assert ">>> memory = IsolatedMemory(" in begin[:2000]
    assert failures_of(tests) == ""
    assert Path("memory.db").exists()


def test_an_example_that_says_something_else_is_noticed(at_hand: dict[str, Any]):
    class Wrong:
        """Wrong.

        >>> scope.chat_history("monday").count()
        1
        """

    assert "Expected:" in failures_of(examples_of(Wrong, "Wrong", at_hand))


def public_modules() -> Iterator[ModuleType]:
    for name in (
        "middleware",
        "caches.node_cache",
        "recall.tool",
        "langgraph_server",
        "scoped_memory.memory_of_run",
    ):
        yield importlib.import_module(f"langmem_isolated.{name}")


@pytest.mark.parametrize("module", [*public_modules()], ids=lambda module: module.__name__)
def test_what_examples_there_are_elsewhere_run(module: ModuleType, at_hand: dict[str, Any]):
    for name, found in vars(module).items():
        if getattr(found, "__module__", None) == module.__name__ and not name.startswith("_"):
            assert failures_of(examples_of(found, name, at_hand)) == ""
