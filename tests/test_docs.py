"""The documentation leads to files that are there, and says what the program does."""

import ast
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.base import empty_checkpoint
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import langmem_isolated
from langmem_isolated import IsolatedMemory, LocalRootKey
from tests.test_floors import FLOOR_OF

PROJECT = Path(__file__).parent.parent
PACKAGE = Path(langmem_isolated.__file__).parent
# Folders of pages that a build of the site makes, in a checkout where it was built.
MADE = ("docs/reference/api", "docs/reference/commands", "docs/project")
PAGES = {
    path.relative_to(PROJECT).as_posix(): path.read_text()
    for path in (*sorted((PROJECT / "docs").rglob("*.md")), *sorted(PROJECT.glob("*.md")))
    if path.name != "CHANGELOG.md" and path.parent.relative_to(PROJECT).as_posix() not in MADE
}
ARCHITECTURE, GLOSSARY = (
    PAGES["docs/explanation/architecture.md"],
    PAGES["docs/explanation/glossary.md"],
)
THREATS, CONTRIBUTING = PAGES["docs/explanation/threat-model.md"], PAGES["CONTRIBUTING.md"]

FILE = re.compile(r"`([\w./-]+(?:\.(?:py|md|toml|lock|yaml)|/))`")
# A path and what is in it: `scope.py` · `Scope`.
PAIR = re.compile(r"`([\w./-]+\.py)`\s+·\s+`([\w.]+)`")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def located(path: str) -> Path | None:
    """Where a path leads: it is the project's, or below the package."""
    return next((root / path for root in (PROJECT, PACKAGE) if (root / path).exists()), None)


def names_in(path: Path) -> set[str]:
    """What a module defines: functions, classes, what is in those, and what is assigned."""

    def inside(body: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from inside(node.body, f"{prefix}{node.name}.")
            targets = node.targets if isinstance(node, ast.Assign) else []
            targets += [node.target] if isinstance(node, ast.AnnAssign) else []
            yield from (prefix + ast.unparse(target) for target in targets)

    return set(inside(ast.parse(path.read_text()).body, ""))


def table(text: str, heading: str) -> list[list[str]]:
    """The rows of the table below a heading, cell by cell."""
    section = text.partition(f"# {heading}\n")[2].partition("\n#")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" |")] for line in lines[2:]]


class Question(NamedTuple):
    """What a newcomer asks, where the answer stands, and the file it leads to."""

    asked: str
    page: str
    term: str
    path: str
    name: str = ""


A, G, C = "docs/explanation/architecture.md", "docs/explanation/glossary.md", "CONTRIBUTING.md"
QUESTIONS = [
    Question("Where is the nonce made?", G, "nonce", "_crypto/sealing.py", "seal"),
    Question(
        "What stops a row from being moved?",
        G,
        "stops a row from being moved",
        "_crypto/sealing.py",
        "associated_data_of",
    ),
    Question(
        "What stops the end of a history from being cut off?",
        G,
        "row MAC",
        "_storage/container_state.py",
        "ContainerState.computed_mac",
    ),
    Question(
        "What happens when a key was rotated meanwhile?",
        A,
        "rotated the keys meanwhile",
        "_storage/scoped_database.py",
    ),
    Question(
        "Where is a driver's error translated?",
        A,
        "driver's error is translated",
        "_database/transactions.py",
        "TransactionRunner.raise_translated",
    ),
    Question(
        "What happens when a pooled connection is dead?",
        A,
        "stale connection",
        "_database/transactions.py",
        "TransactionRunner.run",
    ),
    Question("Who sees that the scope was erased?", A, "erased", "_storage/scoped_database.py"),
    Question(
        "Where do several writers share a commit?", G, "group commit", "_database/write_queue.py"
    ),
    Question("Where is the savepoint?", G, "savepoint", "_database/transactions.py"),
    Question(
        "How is a message appended without a lock?",
        G,
        "optimistic append",
        "_storage/sessions/writing.py",
        "append_optimistically",
    ),
    Question(
        "Where is the compare-and-swap?",
        G,
        "compare-and-swap",
        "_storage/containers.py",
        "compare_and_swap",
    ),
    Question(
        "Where do sync and async meet?",
        A,
        "worker thread",
        "_database/database.py",
        "Database.arun",
    ),
    Question("What happens in a forked child?", A, "after a fork", "_runtime/forking.py"),
    Question("Where are the tables?", G, "tables", "_database/schema.py", "metadata"),
    Question(
        "How do tables change?", G, "schema version", "_database/upgrades/versions.py", "STEPS"
    ),
    Question(
        "By what do tables know a user?",
        G,
        "pseudonym",
        "_crypto/scope_keys.py",
        "ScopeKeys.pseudonym",
    ),
    Question("Who wraps the keys?", G, "wrapped key", "_storage/wrapped_keys.py", "WrappedKeys"),
    Question(
        "How do I write a provider for a key service?",
        C,
        "three members",
        "root_keys/provider.py",
        "RootKey",
    ),
    Question("Where are keys cached?", G, "key cache", "_storage/keyring.py", "Keyring"),
    Question(
        "Whose memory does a run see?",
        G,
        "scope resolution",
        "_adapters/run_scope.py",
        "ScopeFinder.of_call",
    ),
    Question(
        "How are messages stored once in a thread?",
        G,
        "deduplication cache",
        "_codecs/checkpoints/element_cache.py",
        "ElementCache",
    ),
    Question(
        "Where are numbers of elements packed?",
        G,
        "run-length encoding",
        "_codecs/checkpoints/layout.py",
        "run_length_encode",
    ),
    Question(
        "Who removes elements that nothing refers to?",
        G,
        "garbage collection",
        "_storage/threads/writing.py",
        "sweep",
    ),
    Question("Which types may a checkpoint hold?", G, "allow-list", "_codecs/classes.py"),
    Question("Where would I add a store adapter?", C, "third-party vector store", "wrapping/"),
    Question(
        "Where would I add an importer?", C, "one for each source", "langmem_isolated/importers/"
    ),
    Question(
        "Where would I add a kind of record?", C, "a number in `Kind`", "_crypto/kinds.py", "Kind"
    ),
    Question("Where would I add a command?", C, "one module a group", "cli/"),
    Question(
        "Who checks what a retriever returns?",
        G,
        "result guard",
        "_adapters/document_tags.py",
        "ResultGuard",
    ),
    Question("What is tried on a store first?", G, "canary", "wrapping/probe.py", "probe"),
    Question("Why does a search ask for more than k?", G, "over-fetch", "wrapping/vector_store.py"),
    Question("Where is the LRU cache?", G, "LRU", "_runtime/lru.py", "LRUCache"),
    Question("Where is NumPy used?", A, "`numpy`", "_search/"),
    Question(
        "Where does a page of sessions begin?",
        G,
        "keyset pagination",
        "_storage/container_listing.py",
    ),
    Question(
        "Where does a record expire?",
        G,
        "TTL",
        "_storage/container_state.py",
        "ContainerState.is_expired",
    ),
    Question("Where is the clock?", G, "clock", "_runtime/clock.py", "now"),
]


def entries(page: str) -> list[str]:
    """Each table row, list item and paragraph of a page, in one line."""
    blocks = re.split(r"\n(?=\||- |\d+\. )|\n\n", PAGES[page])
    return [" ".join(block.split()) for block in blocks]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.asked)
def test_a_newcomers_question_is_answered_with_a_file_in_one_step(question: Question):
    path = f"`{question.path}`"
    answers = [
        entry
        for entry in entries(question.page)
        if question.term.lower() in entry.lower() and path in entry
    ]

    assert answers
    if question.name:
        found = located(question.path)
        assert found
        assert question.name in names_in(found)


@pytest.mark.parametrize("page", PAGES)
def test_every_path_of_the_documentation_is_there(page: str):
    paths = set(FILE.findall(PAGES[page]))
    # A folder that has yet to be built has its floor.
    to_come = {f"langmem_isolated/{name}/" for name in FLOOR_OF}

    assert [path for path in sorted(paths - to_come) if not located(path)] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_the_documentation_leads_to_a_file(page: str):
    folder = (PROJECT / page).parent

    assert [link for link in LINK.findall(PAGES[page]) if not (folder / link).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_what_the_documentation_says_is_in_a_file_is_there(page: str):
    missing = []
    for path, name in PAIR.findall(PAGES[page]):
        found = located(path)
        if not found or name not in names_in(found):
            missing.append((path, name))

    assert missing == []


def test_every_folder_and_module_at_the_top_has_a_row_with_its_floor():
    rows = {cells[0].strip("`"): int(cells[1]) for cells in table(ARCHITECTURE, "Floors")}
    top = [
        path
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    ]
    expected = {path.name + "/" * path.is_dir(): FLOOR_OF[path.stem] for path in top}

    assert rows == expected


def test_every_file_that_a_threat_model_names_as_proof_has_tests():
    proofs = [
        cells[-1].strip("`")
        for name in ("Attackers", "Accidents")
        for cells in table(THREATS, name)
    ]

    assert len(proofs) > 30
    assert all("def test_" in (PROJECT / path).read_text() for path in proofs if path)


def walked(heading: str) -> list[str]:
    """The functions of a walk, as `path function`, in their order."""
    section = ARCHITECTURE.partition(f"### {heading}\n")[2].partition("\n#")[0]
    steps = re.findall(rf"^\d+\. {PAIR.pattern}", section, re.MULTILINE)
    return [f"{path} {name}" for path, name in steps]


def called_by(action: Callable[[], object]) -> list[str]:
    """The functions of the package that an action calls, as `path function`."""
    called: list[str] = []
    start = f"{PACKAGE}/"

    def note(frame: Any, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(start):
            called.append(f"{file.removeprefix(start)} {frame.f_code.co_qualname}")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(before)
    return called


def out_of_order(steps: list[str], called: list[str]) -> list[str]:
    """Steps that are not called after the ones before them."""
    position, missing = 0, []
    for step in steps:
        try:
            position = called.index(step, position) + 1
        except ValueError:
            missing.append(step)
    return missing


def a_message(memory: IsolatedMemory) -> Callable[[], object]:
    history = memory.scope(user_id="alice", module_id="tutor").chat_history("monday")
    history.add_messages([HumanMessage("one")])
    return lambda: history.add_messages([HumanMessage("two")])


def a_checkpoint(memory: IsolatedMemory) -> Callable[[], object]:
    saver = memory.scope(user_id="alice", module_id="tutor").checkpointer()
    messages = [HumanMessage("one", id="1")]

    def put(config: Any, step: int) -> Any:
        checkpoint = empty_checkpoint()
        checkpoint["channel_values"] = {"messages": [*messages]}
        return saver.put(config, checkpoint, {"source": "loop", "step": step, "parents": {}}, {})

    config = put({"configurable": {"thread_id": "chat-1", "checkpoint_ns": ""}}, 0)
    messages.append(HumanMessage("two", id="2"))
    return lambda: put(config, 1)


def a_store_item(memory: IsolatedMemory) -> Callable[[], object]:
    store = memory.scope(user_id="alice", module_id="tutor").store()
    store.put(("facts",), "school", {"level": 1})
    return lambda: store.put(("facts",), "school", {"level": 2})


def a_document(memory: IsolatedMemory) -> Callable[[], object]:
    scope = memory.scope(user_id="alice", module_id="tutor")
    store = scope.vector_store(DeterministicFakeEmbedding(size=8))
    store.add_documents([Document("one")])
    return lambda: store.add_texts(["two"])


@pytest.mark.parametrize(
    ("heading", "prepared", "first"),
    [
        ("A message", a_message, "chat_history.py IsolatedChatMessageHistory.add_messages"),
        ("A checkpoint", a_checkpoint, "checkpointer/saver.py IsolatedCheckpointSaver.put"),
        ("A store item", a_store_item, "store/store.py IsolatedStore.put"),
        ("A document", a_document, "_adapters/vector_store_base.py ScopedVectorStore.add_texts"),
    ],
)
def test_a_walk_names_what_is_called_in_the_order_in_which_it_is_called(
    heading: str,
    prepared: Callable[[IsolatedMemory], Callable[[], object]],
    first: str,
    sqlite_url: str,
):
    steps = walked(heading)
    with IsolatedMemory(sqlite_url, root_key=LocalRootKey(bytes(32))) as memory:
        called = called_by(prepared(memory))

    assert steps[0] == called[0] == first
    assert "_crypto/sealing.py seal" in steps
    assert out_of_order(steps, called) == []


def test_a_walk_in_another_order_is_noticed():
    assert out_of_order(["a f", "b g"], ["b g", "a f", "c h"]) == ["b g"]


@pytest.mark.parametrize("page", [page for page in PAGES if page != "README.md"])
def test_every_python_block_runs_as_it_stands(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LANGMEM_ISOLATED_ROOT_KEY", LocalRootKey.generate_text())
    namespace: dict[str, object] = {}

    for block in re.findall(r"```python\n(.*?)```", PAGES[page], re.DOTALL):
        exec(compile(block, page, "exec"), namespace)


def sessions_of_nox() -> dict[str, list[str]]:
    """The commands of each session, as a shell would have them."""
    tree = ast.parse((PROJECT / "noxfile.py").read_text())
    found: dict[str, list[str]] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.decorator_list:
            calls = [one for one in ast.walk(node) if isinstance(one, ast.Call)]
            runs = [one for one in calls if ast.unparse(one.func) == "session.run"]
            found[node.name] = [
                " ".join(ast.literal_eval(part) for part in one.args) for one in runs
            ]
    return found


def sessions_of_ci() -> dict[str, list[str]]:
    """The commands of each part of `.ci/run`, by the comment above it."""
    script = (PROJECT / ".ci" / "run").read_text()
    parts = script.partition('pip install --quiet -e ".[dev]"\n')[2].split("\n# ")[1:]
    return {
        name: [line for line in commands.splitlines() if line]
        for name, _, commands in (part.partition("\n") for part in parts)
    }


def test_nox_and_ci_run_the_same_commands():
    names = ["lint", "types", "imports", "demo", "notebooks", "docs", "tests"]

    assert sessions_of_nox() == sessions_of_ci()
    assert [*sessions_of_nox()] == [*sessions_of_ci()] == names


def test_contributing_names_every_session():
    assert set(re.findall(r"`nox -s (\w+)`", CONTRIBUTING)) == set(sessions_of_nox())


def test_hooks_run_what_lint_and_types_run_and_fetch_nothing():
    config = (PROJECT / ".pre-commit-config.yaml").read_text()

    assert re.findall(r"repo: (\S+)", config) == ["local"]
    assert re.findall(r"language: (\S+)", config) == ["system"] * 3
    commands = [command.split() for parts in sessions_of_nox().values() for command in parts]
    for tool in re.findall(r"entry: (.+?)(?: --force-exclude)?$", config, re.MULTILINE):
        assert any(command[: len(tool.split())] == tool.split() for command in commands)


def test_the_lock_has_what_development_needs_in_versions_that_are_allowed():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]

    def needed(requirements: list[str]) -> Iterator[Requirement]:
        for requirement in map(Requirement, requirements):
            if requirement.name == project["name"]:
                for extra in sorted(requirement.extras):
                    yield from needed(extras[extra])
            else:
                yield requirement

    lines = (PROJECT / "requirements-dev.lock").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    versions = {canonicalize_name(name): version for name, version in pinned.items()}
    for requirement in needed([*project["dependencies"], *extras["dev"]]):
        assert versions[canonicalize_name(requirement.name)] in requirement.specifier


def test_the_source_distribution_has_what_the_tests_and_the_documentation_name():
    build = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    included = {path.strip("/") for path in build["targets"]["sdist"]["include"]}

    assert {"docs", "notebooks", "benchmarks", ".ci/run", "noxfile.py"} <= included
    assert {page for page in PAGES if "/" not in page} <= included
    assert [path for path in included if not (PROJECT / path).exists()] == []
