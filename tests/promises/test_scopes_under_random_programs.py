"""Promise 0 under random programs: five users, every adapter, and a model that says what is right.

A program is a tree of steps: blocks of `using`, runs, graphs, threads and tasks, each with steps
inside, and calls of every adapter at the leaves. What a step must do follows from who is named
around it (:class:`Around`): succeed for that user, or be refused. At the end nobody's memory holds
a word of anybody else.
"""

import asyncio
import contextvars
import itertools
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import CachePolicy, Command, interrupt

from langmem_isolated import IsolatedMemory, LocalRootKey, Scope
from langmem_isolated.errors import IsolationViolation, ScopeError

USERS = ("ann", "bob", "cid", "dan", "eve")
REFUSED = (ScopeError, IsolationViolation)
_examples = itertools.count()
_numbers = itertools.count()
who: contextvars.ContextVar[Scope | None] = contextvars.ContextVar("who", default=None)

Steps = list[Any]


@dataclass(frozen=True)
class Around:
    """Who is named around a step."""

    using: str | None = None
    run: str | None = None
    login: str | None = None
    found: str | None = None
    """Whose memory a checkpointer that is not bound has found for the graph around."""
    in_loop: bool = False

    def meant(
        self, own: str | None, bound: str | None, *, asks_login: bool, of_loop: bool = False
    ) -> str | None:
        """Whose memory a call means; ``None`` if it must be refused.

        Args:
            own: Whom its config names.
            bound: To whom the object is bound.
            asks_login: Whether there is a resolver, which answers who is logged in.
            of_loop: Whether it is a checkpointer, or what one has served.
        """
        if bound is not None:
            return bound if own in (None, bound) else None
        spoken = {own, self.login if asks_login else None} - {None}
        if len(spoken) > 1:
            return None
        found = self.found if of_loop else None
        scope = next(iter(spoken), None) or self.run or found or self.using
        names = {name for name in (self.using, self.run) if name} if self.using else set()
        return None if names - {scope} else scope


class Program:
    """Runs the steps of one program, for users of its own."""

    def __init__(self, memory: IsolatedMemory) -> None:
        self.memory = memory
        self.project = f"p{next(_examples)}"
        self.problems: list[str] = []
        resolver = self._logged_in
        embeddings = DeterministicFakeEmbedding(size=4)
        self.savers = {
            False: memory.checkpointer(),
            True: memory.checkpointer(scope_resolver=resolver),
        }
        self.stores = {False: memory.store(), True: memory.store(scope_resolver=resolver)}
        self.caches = {False: memory.llm_cache(), True: memory.llm_cache(scope_resolver=resolver)}
        self.node_cache = memory.node_cache()
        self.handler = memory.callback_handler()
        self.documents = memory.vector_store(embeddings)
        self.retriever = memory.retriever(embeddings)
        self.tool = memory.recall_tool()
        self.profile = memory.profile_tool()

    def _logged_in(self, _: RunnableConfig) -> Scope | None:
        return who.get()

    def scope(self, user: str) -> Scope:
        return Scope(user, "m", project_id=self.project)

    def config(self, user: str | None, thread: str = "t") -> RunnableConfig:
        named = {"user_id": user, "module_id": "m", "project_id": self.project} if user else {}
        return {"configurable": {**named, "thread_id": thread, "session_id": "s"}}

    # --- what is right ---

    def call(
        self, meant: str | None, body: Callable[[str], Any], *, may_refuse: bool = False
    ) -> None:
        """Run ``body`` with a word of whom is meant, and compare what comes of it."""
        try:
            found = body(f"<{meant or 'nobody'}> {next(_numbers)}")
        except REFUSED as error:
            if meant is not None and not may_refuse:
                self.problems.append(f"refused what is legitimate: {error!r}")
        else:
            if meant is None:
                self.problems.append(f"not refused: {body.__qualname__}")
            self.see(found, meant)

    def see(self, found: Any, meant: str | None) -> None:
        """Nobody else's word is in what was found."""
        if others := words(found) - {meant}:
            self.problems.append(f"{meant} was shown words of {others}")

    def check(self) -> None:
        """Nobody's memory holds a word of anybody else."""
        for user in USERS:
            scoped = self.memory.scope(self.scope(user))
            found: list[Any] = [list(scoped.checkpointer().list(None))]
            found += [scoped.chat_history(one.id).messages for one in scoped.sessions()]
            found += [scoped.store().search((), limit=1000)]
            found += [scoped.vector_store(DeterministicFakeEmbedding(size=4)).documents()]
            found += [[fact.text for fact in scoped.profile().facts()]]
            self.see(found, user)
        assert self.problems == []

    # --- steps ---

    def run(self, steps: Steps, around: Around) -> None:
        for name, *args in steps:
            getattr(self, name)(around, *args)

    def block(self, around: Around, user: str, steps: Steps) -> None:
        inside = replace(around, using=user)
        if around.using not in (None, user):
            with pytest.raises(IsolationViolation), self.memory.using(self.scope(user)):
                raise AssertionError
            return
        with self.memory.using(self.scope(user)):
            self.run(steps, inside)

    def wrapped_block(self, around: Around, user: str, steps: Steps) -> None:
        @contextmanager
        def block() -> Iterator[None]:
            with self.memory.using(self.scope(user)):
                yield

        if around.using in (None, user):
            with block():
                self.run(steps, replace(around, using=user))

    def generator(self, around: Around, user: str, steps: Steps) -> None:
        def suspended() -> Iterator[None]:
            with self.memory.using(self.scope(user)):
                yield

        lent = suspended()
        with pytest.raises(IsolationViolation):
            next(lent)
        self.run(steps, around)
        lent.close()

    def login(self, around: Around, user: str, steps: Steps) -> None:
        token = who.set(self.scope(user))
        self.run(steps, replace(around, login=user))
        who.reset(token)

    def in_a_run(self, around: Around, user: str | None, steps: Steps) -> None:
        inside = replace(around, run=user or around.run)
        body = RunnableLambda(lambda _: self.run(steps, inside))
        body.invoke("go", self.config(user) if user else None)

    def in_an_async_run(self, around: Around, user: str | None, steps: Steps) -> None:
        if around.in_loop:
            return
        inside = replace(around, run=user or around.run, in_loop=True)

        async def body(_: str) -> None:
            self.run(steps, inside)

        asyncio.run(RunnableLambda(body).ainvoke("go", self.config(user) if user else None))

    def in_a_thread(self, around: Around, keeps_context: bool, steps: Steps) -> None:
        inside = replace(around, in_loop=False) if keeps_context else Around()
        run: Callable[..., Any] = contextvars.copy_context().run if keeps_context else _plainly
        caught: list[BaseException] = []

        def body() -> None:
            try:
                run(self.run, steps, inside)
            except BaseException as error:  # noqa: BLE001 - told where the thread was begun
                caught.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        for error in caught:
            raise error

    def in_tasks(self, around: Around, users: list[str], steps: Steps) -> None:
        """A task for each user, each in a block of its own."""
        if around.in_loop or around.using:
            return

        async def one(user: str) -> None:
            async with self.memory.using(self.scope(user)):
                await asyncio.sleep(0)
                self.run(steps, replace(around, using=user, in_loop=True))
                await asyncio.sleep(0)

        async def all_of_them() -> None:
            await asyncio.gather(*map(one, users))

        asyncio.run(all_of_them())

    def graph(
        self,
        around: Around,
        own: str | None,
        bound: str | None,
        asks_login: bool,
        kind: str,
        steps: Steps,
    ) -> None:
        """A graph with parallel slow nodes and steps inside of one of them."""
        meant = around.meant(own, bound, asks_login=asks_login, of_loop=True)
        found = None if bound else meant
        inside = replace(around, run=own, found=found, in_loop=kind == "async")
        thread = f"t{next(_numbers)}"
        config = self.config(own, thread)
        builder = self._nodes(lambda: self.run(steps, inside), asks=kind == "interrupt")
        compiled = builder.compile(
            checkpointer=self.savers[asks_login], store=self.stores[asks_login]
        )
        if bound:
            compiled = self.memory.scope(self.scope(bound)).bind(builder.compile())

        def body(word: str) -> Any:
            start = {"messages": [HumanMessage(word)]}
            if kind == "async" and not around.in_loop:
                return asyncio.run(compiled.ainvoke(start, config))
            if kind == "stream":
                return list(compiled.stream(start, config))
            found = [compiled.invoke(start, config)]
            if kind == "interrupt":
                state = compiled.get_state(config, subgraphs=True)
                found.append([task.state and task.state.values for task in state.tasks])
                inner = next(task.state for task in state.tasks if task.state)
                compiled.update_state(inner.config, {"messages": [HumanMessage(word)]})
                found.append(compiled.invoke(Command(resume=word), config))
            return [*found, compiled.get_state(config).values]

        self.call(meant, body)

    def _nodes(self, body: Callable[[], None], *, asks: bool) -> Any:
        done: list[bool] = []

        def steps(_: MessagesState) -> dict[str, Any]:
            if not done:
                done.append(True)
                body()
            return {}

        def slow(state: MessagesState) -> dict[str, Any]:
            time.sleep(0.005)
            return {"messages": [AIMessage(str(state["messages"][0].content))]}

        def ask(_: MessagesState) -> dict[str, Any]:
            return {"messages": [HumanMessage(interrupt("?"))]} if asks else {}

        inner = StateGraph(MessagesState).add_node("ask", ask).add_edge(START, "ask").compile()
        builder = StateGraph(MessagesState).add_node("team", inner)
        for name, node in (("steps", steps), ("slow", slow)):
            builder.add_node(name, node).add_edge(START, name)
        return builder.add_edge(START, "team")

    def stream_left_open(self, around: Around, user: str, steps: Steps) -> None:
        """A stream begun in a block goes on behind it, with steps in between."""
        if around.using not in (None, user) or around.run not in (None, user):
            return
        compiled = self._nodes(lambda: None, asks=False).compile(checkpointer=self.savers[False])
        thread = self.config(None, f"t{next(_numbers)}")
        with self.memory.using(self.scope(user)):
            stream = compiled.stream({"messages": [HumanMessage(f"<{user}>")]}, thread)
            next(stream)
        self.run(steps, around)
        self.call(user, lambda _: list(stream))

    def cached_nodes(self, around: Around, own: str | None, bound: str | None) -> None:
        meant = around.meant(own, bound, asks_login=False)

        def look(state: MessagesState) -> dict[str, Any]:
            time.sleep(0.002)
            return {"messages": [AIMessage(f"<{meant}>")]}

        builder = StateGraph(MessagesState)
        for name in ("one", "two"):
            builder.add_node(name, look, cache_policy=CachePolicy(key_func=lambda _: "same"))
            builder.add_edge(START, name)
        compiled = builder.compile(cache=self.node_cache)
        if bound:
            compiled = self.memory.scope(self.scope(bound)).bind(compiled)
        config = self.config(own, f"t{next(_numbers)}")
        start = {"messages": [HumanMessage("the same question")]}
        self.call(meant, lambda _: compiled.invoke(start, config))

    def store(self, around: Around, bound: str | None, asks_login: bool, is_async: bool) -> None:
        # The run's config is the call's own here: there is no other.
        meant = around.meant(around.run, bound, asks_login=asks_login)
        store = self.stores[asks_login]
        if bound:
            meant, store = bound, self.memory.scope(self.scope(bound)).store()

        def body(word: str) -> Any:
            if is_async and not around.in_loop:
                asyncio.run(store.aput(("words",), word, {"word": word}))
                return asyncio.run(store.asearch((), limit=100))
            store.put(("words",), word, {"word": word})
            return store.search((), limit=100)

        self.call(meant, body)

    def saver_without_a_config(self, around: Around, bound: str | None, asks_login: bool) -> None:
        meant = around.meant(None, bound, asks_login=asks_login, of_loop=True)
        saver = self.savers[asks_login]
        if bound:
            saver = self.memory.scope(self.scope(bound)).checkpointer()

        def body(_: str) -> Any:
            saver.delete_thread("t0")
            return [list(saver.list(None)), saver.threads()]

        # A resolver that disagrees with the run around may be refused: in doubt no memory.
        is_anothers = asks_login and around.run not in (None, meant)
        self.call(meant, body, may_refuse=is_anothers)

    def forms(self, around: Around, own: str | None) -> None:
        meant = around.meant(around.run, None, asks_login=False)

        def body(word: str) -> Any:
            self.documents.add_texts([word])
            self.memory.of_run().chat_history("s").add_messages([HumanMessage(word)])
            self.profile.invoke({"action": "add", "text": word})
            return [self.documents.similarity_search("word"), self.tool.invoke({"query": word})]

        self.call(meant, body)
        named = around.meant(own, None, asks_login=False)
        self.call(named, lambda _: self.retriever.invoke("word", self.config(own) if own else None))

    def history(self, around: Around, user: str) -> None:
        def body(word: str) -> Any:
            # The factory has no project: it is asked as the resolver of a run asks.
            finder = self.memory._context.finder(None)
            scope = finder.of_call(self.config(user))
            history = self.memory.scope(scope).chat_history("s")
            history.add_messages([HumanMessage(word)])
            return history.messages

        self.call(around.meant(user, None, asks_login=False), body)

    def chain(self, around: Around, own: str | None, asks_login: bool) -> None:
        """A chain with a model that is recorded and cached."""
        user = own or around.run
        meant = replace(around, run=user).meant(user, None, asks_login=asks_login)
        model = FakeListChatModel(responses=[f"<{meant}>"], cache=self.caches[asks_login])
        chain = RunnableLambda(lambda text: text) | model
        config = {**(self.config(own) if own else {}), "callbacks": []}
        self.call(meant, lambda _: chain.invoke("the same question", config))
        recorded = RunnableLambda(lambda text: text) | FakeListChatModel(responses=["ok"])
        named = replace(around, run=user).meant(user, None, asks_login=False)
        if user:
            config["callbacks"] = [self.handler]
            self.call(named, lambda word: recorded.invoke(word, config))

    def batch(self, _: Around, users: list[str]) -> None:
        """Parts of several users: refused, or each in its own memory."""
        model = FakeListChatModel(responses=["ok"], cache=self.caches[False])
        chain = RunnableLambda(lambda text: text) | model
        configs = [{**self.config(user), "callbacks": [self.handler]} for user in users]
        try:
            chain.batch([f"<{user}>" for user in users], configs)
        except REFUSED:
            pass
        else:
            self.problems.append("a batch was not refused")


def _plainly(body: Callable[..., Any], *args: Any) -> Any:
    return body(*args)


def words(found: Any) -> set[str | None]:
    """Whose words are in what was found."""
    return set(re.findall(rf"<({'|'.join(USERS)})>", str(found)))


user = st.sampled_from(USERS)
maybe = st.none() | st.none() | user
flag = st.booleans()
leaf = st.one_of(
    st.tuples(st.just("cached_nodes"), maybe, maybe),
    st.tuples(st.just("store"), maybe, flag, flag),
    st.tuples(st.just("saver_without_a_config"), maybe, flag),
    st.tuples(st.just("forms"), maybe),
    st.tuples(st.just("history"), user),
    st.tuples(st.just("chain"), maybe, flag),
    st.tuples(st.just("batch"), st.lists(user, min_size=1, max_size=3)),
)
KINDS = ("invoke", "async", "stream", "interrupt")


def nested(steps: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    inside = st.lists(steps, min_size=1, max_size=2)
    blocks = [
        st.tuples(st.just(name), user, inside)
        for name in ("block", "wrapped_block", "generator", "login", "stream_left_open")
    ]
    runs = [st.tuples(st.just(name), maybe, inside) for name in ("in_a_run", "in_an_async_run")]
    return st.one_of(
        *blocks,
        *runs,
        st.tuples(st.just("in_a_thread"), flag, inside),
        st.tuples(st.just("in_tasks"), st.lists(user, min_size=2, max_size=5), inside),
        st.tuples(st.just("graph"), maybe, maybe, flag, st.sampled_from(KINDS), inside),
    )


programs = st.lists(st.recursive(leaf, nested, max_leaves=6), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IsolatedMemory]:
    url = f"sqlite:///{tmp_path_factory.mktemp('random')}/memory.db"
    root_key = LocalRootKey(bytes(range(32)))
    with IsolatedMemory(url, root_key=root_key, synchronous="NORMAL") as memory:
        yield memory


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=programs)
@example(steps=[("in_a_run", "ann", [("in_an_async_run", "bob", [("cached_nodes", None, None)])])])
@example(steps=[("login", "ann", [("in_a_run", "bob", [("saver_without_a_config", None, True)])])])
@example(
    steps=[("in_a_run", "ann", [("graph", "bob", None, False, "interrupt", [("forms", None)])])]
)
def test_nobody_reads_or_writes_anothers_and_nothing_legitimate_is_refused(
    memory: IsolatedMemory, steps: Steps
):
    program = Program(memory)
    contextvars.copy_context().run(program.run, steps, Around())
    program.check()
