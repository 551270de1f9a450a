"""Types: what LangGraph and LangChain store by default is stored, side by side with their own."""

import collections
import dataclasses
import enum
import logging
import pathlib
import threading
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple, TypedDict

import numpy as np
import pydantic
import pydantic.v1
import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ToolStrategy
from langchain_core.language_models import FakeMessagesListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph, add_messages
from langgraph.types import CachePolicy, Command, Send, interrupt

from langmem_isolated import IsolatedMemory
from langmem_isolated._codecs import classes
from langmem_isolated._codecs.storable import NOT_STORED
from langmem_isolated._codecs.values import decode_value, encode_value
from langmem_isolated.errors import ValueNotStorable
from langmem_isolated.scoped_memory import ScopedMemory
from tests.conftest import Door
from tests.threads import at, checkpoint, put, same, values_at


class Street(pydantic.BaseModel):
    name: str
    number: int = 1


class Person(pydantic.BaseModel):
    name: str
    street: Street | None = None
    free: Any = None
    secret: pydantic.SecretStr = pydantic.SecretStr("")
    home: pydantic.HttpUrl | None = None
    hidden: str = pydantic.Field(default="", exclude=True)
    aliased: int = pydantic.Field(default=0, alias="Aliased")


class Old(pydantic.v1.BaseModel):
    name: str
    more: dict[str, Any] = {}


class Shouting(pydantic.BaseModel):
    """Its validator changes what it is given every time."""

    text: str

    @pydantic.field_validator("text")
    @classmethod
    def louder(cls, text: str) -> str:
        return text + "!"


class Box(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    lock: Any = None

    @pydantic.field_serializer("lock")
    def without_lock(self, _: Any) -> str:
        return "a lock"


@dataclasses.dataclass
class Job:
    title: str
    steps: list[Any] = dataclasses.field(default_factory=list)
    length: int = dataclasses.field(init=False, default=0)

    def __post_init__(self) -> None:
        self.length += 1


@dataclasses.dataclass(frozen=True, slots=True)
class Spot:
    x: int
    y: int = 0


class Kind(enum.Enum):
    GOOD = "good"
    PAIR = (1, 2)


class Level(enum.IntEnum):
    LOW = 1


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Named(NamedTuple):
    left: Any
    right: Any = None


class Outer:
    class Inner(pydantic.BaseModel):
        x: int = 1

    @dataclasses.dataclass
    class Data:
        x: int = 1


class Rate(float):
    pass


VALUES: dict[str, Any] = {
    "a model": Person(name="a", street=Street(name="s", number=2), free=[Street(name="t")]),
    "a model with secrets, a URL and an alias": Person(
        name="a", secret="x", home="https://a.b/", Aliased=3
    ),
    "a model of pydantic 1": Old(name="a", more={"b": [1]}),
    "a dataclass": Job("clean", [Spot(1), {"k": Named(1, Kind.GOOD)}]),
    "a frozen dataclass": Spot(1, 2),
    "an enum": Kind.GOOD,
    "an enum of tuples": Kind.PAIR,
    "an enum of numbers": Level.LOW,
    "flags": Right.READ | Right.WRITE,
    "a named tuple": Named([1], Named(2)),
    "a class in a class": [Outer.Inner(x=2), Outer.Data(x=3)],
    "a path": pathlib.Path("a/b"),
    "a deque": collections.deque([Spot(1)], maxlen=3),
    "a set of objects": {Spot(1), Spot(2)},
    "numbers of NumPy": [np.float64(1.5), np.float32(2), np.int64(3), np.bool_(True)],
    "a large number": [2**70, -(2**90)],
    "keys of all kinds": {(1, "a"): 1, 2: 2, None: 3, 1.5: 4, b"x": 5, Kind.GOOD: 6, Spot(1): 7},
    "text with lone surrogates": ["a\ud83d", {"\ud800": {"k": "\udfff"}}, "\U0001f600"],
    "an answer of a validator that is never content": Shouting(text="hi"),
}


@pytest.fixture
def scoped(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="alice", module_id="m")


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    classes._told.clear()
    with caplog.at_level(logging.WARNING, "langmem_isolated"):
        yield caplog


@pytest.mark.parametrize("name", VALUES)
async def test_a_value_comes_back_from_checkpoints_and_writes(
    scoped: ScopedMemory, door: Door, name: str
):
    saver, value = scoped.checkpointer(), VALUES[name]
    everywhere = {"alone": value, "deep": [{"k": [value]}], "large": [value, "x" * 500]}

    config = await door(saver, "put", at("t"), checkpoint(everywhere), {"step": value}, {})
    await door(saver, "put_writes", config, [("a", value), ("b", Send("n", {"k": value}))], "task")

    found = await door(saver, "get_tuple", config)
    assert found.checkpoint["channel_values"] == everywhere
    assert found.metadata["step"] == value
    assert [write[2] for write in found.pending_writes] == [value, Send("n", {"k": value})]


@pytest.mark.parametrize("name", VALUES)
async def test_a_value_comes_back_from_the_free_fields_of_messages(
    scoped: ScopedMemory, door: Door, name: str
):
    value = VALUES[name]
    messages: list[BaseMessage] = [
        AIMessage("a", additional_kwargs={"parsed": value}, response_metadata={"m": [value]}),
        ToolMessage("b", tool_call_id="1", artifact=value),
    ]
    history, saver = scoped.chat_history("s"), scoped.checkpointer()

    await door(history, "add_messages", messages)
    config = await door(saver, "put", at("t"), checkpoint({"messages": messages}), {}, {})

    assert await door(history, "messages") == messages
    assert values_at(saver, config)["messages"] == messages
    await door(scoped.store(), "put", ("n",), "k", {"v": value})
    assert (await door(scoped.store(), "get", ("n",), "k")).value == {"v": value}


ARRAYS = {
    "numbers": np.arange(6.0).reshape(2, 3),
    "by columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "a view": np.arange(12).reshape(3, 4)[:, ::2],
    "dates": np.array(["2026-01-02"], "M8[D]"),
    "records": np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]),
    "objects": np.array([{"a": Spot(1)}, None], dtype=object),
    "masked": np.ma.array([1, 2], mask=[False, True]),
    "empty": np.zeros((0, 3)),
    "no dimension": np.array(1.5),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_comes_back_with_type_shape_and_elements(
    scoped: ScopedMemory, heard: pytest.LogCaptureFixture, name: str
):
    array = ARRAYS[name]

    found = values_at(scoped.checkpointer(), put(scoped.checkpointer(), at("t"), {"a": array}))["a"]

    assert (type(found), found.dtype, found.shape) == (type(array), array.dtype, array.shape)
    assert found.tolist() == array.tolist()
    assert found.flags.writeable
    assert heard.messages == []


def test_fields_that_a_model_writes_by_itself_are_stored_as_it_writes_them(scoped: ScopedMemory):
    saver = scoped.checkpointer()

    found = values_at(saver, put(saver, at("t"), {"box": Box(lock=threading.Lock())}))

    assert found["box"] == Box(lock="a lock")


def test_a_message_that_a_model_writes_as_something_else_does_not_fail_the_write(
    scoped: ScopedMemory,
):
    saver = scoped.checkpointer()
    box = Box(lock=[HumanMessage("in it"), threading.Lock()])

    assert values_at(saver, put(saver, at("t"), {"box": box})) == {"box": Box(lock="a lock")}


def test_what_is_excluded_from_a_model_is_not_stored(scoped: ScopedMemory):
    saver = scoped.checkpointer()

    found = values_at(saver, put(saver, at("t"), {"p": Person(name="a", hidden="x")}))["p"]

    assert (found.name, found.hidden) == ("a", "")


def test_which_fields_were_set_is_kept(scoped: ScopedMemory):
    saver = scoped.checkpointer()

    found = values_at(saver, put(saver, at("t"), {"s": Street(name="a")}))["s"]

    assert found.model_dump(exclude_unset=True) == {"name": "a"}


def test_state_outlives_a_change_of_its_class(
    scoped: ScopedMemory, monkeypatch: pytest.MonkeyPatch
):
    class Renamed(pydantic.BaseModel):
        name: str

    class Longer(pydantic.BaseModel):
        name: str
        street: Renamed | None = None
        added: int = 7

    saver = scoped.checkpointer()
    config = put(saver, at("t"), {"p": Person(name="a", street=Street(name="s"))})
    monkeypatch.delattr(f"{__name__}.Street")
    monkeypatch.setattr(f"{__name__}.Person", Longer)

    found = values_at(saver, config)["p"]

    assert found == Longer(name="a", street=Renamed(name="s"), added=7)


# --- side by side ---------------------------------------------------------------------------------


@dataclasses.dataclass
class Chore:
    """What LangGraph rebuilds: a field that `__init__` does not take makes it a dict."""

    title: str
    steps: list[Any] = dataclasses.field(default_factory=list)


class ModelState(pydantic.BaseModel):
    person: Person | None = None
    jobs: list[Chore] = []
    kind: Kind = Kind.GOOD


@dataclasses.dataclass
class DataState:
    person: Person | None = None
    jobs: list[Chore] = dataclasses.field(default_factory=list)
    kind: Kind = Kind.GOOD


class DictState(TypedDict, total=False):
    person: Person | None
    jobs: list[Chore]
    kind: Kind
    messages: Annotated[list[BaseMessage], add_messages]


def savers(scoped: ScopedMemory) -> list[Any]:
    allowed = [Person, Street, Chore, Kind, Spot, Named, Answer]
    strict = scoped.checkpointer(strict=True, allow=allowed)
    return [InMemorySaver(), scoped.checkpointer(), strict]


class Answer(pydantic.BaseModel):
    value: int


@pytest.mark.parametrize("state", [ModelState, DataState, DictState])
def test_state_of_any_schema_is_kept_as_by_the_saver_in_memory(scoped: ScopedMemory, state: Any):
    def first(_: Any) -> dict[str, Any]:
        return {"person": Person(name="a", street=Street(name="s")), "kind": Kind.GOOD}

    def ask(_: Any) -> dict[str, Any]:
        answer = interrupt({"question": Spot(1), "about": Person(name="b")})
        return {"jobs": [Chore("x", [answer])]}

    results = []
    for thread, saver in enumerate(savers(scoped)):
        builder = StateGraph(state).add_node("first", first).add_node("ask", ask)
        builder = builder.add_edge(START, "first").add_edge("first", "ask")
        graph, config = builder.compile(checkpointer=saver), at(f"t{thread}")
        asked = graph.invoke({"kind": Kind.GOOD}, config)["__interrupt__"][0].value
        pending = graph.get_state(config).tasks[0].interrupts[0].value
        result = graph.invoke(Command(resume=Named(1, Spot(2))), config)
        result.pop("__interrupt__", None)
        values = graph.get_state(config).values
        steps = [one.values for one in graph.get_state_history(config)]
        results.append((asked, pending, result, values, steps))
    assert results[0][2]["jobs"][0].steps == [Named(1, Spot(2))]
    assert results[0] == results[1] == results[2]


def test_the_functional_api_is_kept_as_by_the_saver_in_memory(scoped: ScopedMemory):
    results = []
    for thread, saver in enumerate(savers(scoped)):
        runs: list[int] = []

        @task
        def work(number: int, runs: list[int] = runs) -> Person:
            runs.append(number)
            return Person(name=str(number), street=Street(name="s"))

        @entrypoint(checkpointer=saver)
        def flow(number: int, *, previous: Any = None, work: Any = work) -> Any:
            made = work(number).result()
            said = interrupt(made)
            done = Chore("done", [made, said, previous and previous.title])
            return entrypoint.final(value=done, save=done)

        config = at(f"f{thread}")
        flow.invoke(1, config)
        first = flow.invoke(Command(resume=Kind.GOOD), config)
        flow.invoke(2, config)
        results.append((first, flow.invoke(Command(resume=Spot(1)), config), runs))
    assert results[0][1].steps[2] == "done"
    assert results[0] == results[1] == results[2]
    assert results[1][2] == [1, 2]


class Model(GenericFakeChatModel):
    def bind_tools(self, *_: Any, **__: Any) -> "Model":
        return self


def test_structured_output_that_is_tried_again_is_kept_and_recorded(
    memory: IsolatedMemory, scoped: ScopedMemory
):
    results = []
    for thread, saver in enumerate(savers(scoped)):
        calls = ({"value": "no number"}, {"value": 42})
        says = [
            AIMessage(
                "", id=f"{thread}{n}", tool_calls=[{"name": "Answer", "args": a, "id": f"{n}"}]
            )
            for n, a in enumerate(calls)
        ]
        agent = create_agent(
            Model(messages=iter(says)),
            response_format=ToolStrategy(Answer),
            checkpointer=saver,
            middleware=[scoped.middleware()],
        )
        config = at(f"agent{thread}")
        result = agent.invoke({"messages": [HumanMessage("?", id=f"q{thread}")]}, config)
        assert agent.get_state(config).values["structured_response"] == Answer(value=42)
        results.append((result["structured_response"], [m.text for m in result["messages"]]))
        assert len(scoped.chat_history(f"agent{thread}").messages) == 5
    assert results[0] == results[1] == results[2]


def test_what_a_node_wrote_is_cached_as_by_the_cache_in_memory(scoped: ScopedMemory):
    results = []
    for cache in (InMemoryCache(), scoped.node_cache()):
        runs: list[int] = []

        def node(_: Any, runs: list[int] = runs) -> dict[str, Any]:
            runs.append(1)
            return {"person": Person(name="a", street=Street(name="s")), "jobs": [Chore("x")]}

        builder = StateGraph(DictState).add_node("n", node, cache_policy=CachePolicy())
        graph = builder.add_edge(START, "n").compile(cache=cache)
        results.append([graph.invoke({"kind": Kind.GOOD}) for _ in range(2)])
        assert runs == [1]
    assert results[0] == results[1]


def test_a_parsed_answer_is_cached_and_recorded(memory: IsolatedMemory, scoped: ScopedMemory):
    parsed = AIMessage("{}", id="p", additional_kwargs={"parsed": Answer(value=1)})
    model = FakeMessagesListChatModel(responses=[parsed, AIMessage("other")])
    model.cache = scoped.llm_cache()
    chain = model | RunnableLambda(lambda message: message)
    handler = scoped.callback_handler("chain")

    found = [chain.invoke("?", {"callbacks": [handler]}) for _ in range(2)]

    assert [one.additional_kwargs["parsed"] for one in found] == [Answer(value=1)] * 2
    [_, kept, *_] = scoped.chat_history("chain").messages
    assert kept.additional_kwargs["parsed"] == Answer(value=1)


# --- what is told, and what is refused ------------------------------------------------------------


def local() -> list[Any]:
    class Local(pydantic.BaseModel):
        x: int = 1

    @dataclasses.dataclass
    class Data:
        x: int = 1

    return [Local(), Data()]


def test_a_local_class_is_read_as_plain_fields_and_told_once(
    scoped: ScopedMemory, heard: pytest.LogCaptureFixture
):
    saver, stock = scoped.checkpointer(), InMemorySaver()

    for _ in range(2):
        config = put(saver, at("t"), {"a": local()})
    expected = values_at(stock, put(stock, at("t"), {"a": local()}))

    assert values_at(saver, config) == expected == {"a": [{"x": 1}, {"x": 1}]}
    stored = [message for message in heard.messages if "is stored" in message]
    assert len(stored) == 2
    assert all("<locals>" in message and "plain fields" in message for message in stored)
    with pytest.raises(ValueNotStorable, match="is not allowed"):
        put(scoped.checkpointer(strict=True), at("t"), {"a": local()[0]})


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (ValueError("x"), "ValueError('x')"),
        (Rate(1.5), 1.5),
        (type("Words", (set,), {})({1}), {1}),
        (np.arange(3).view(type("Rows", (np.ndarray,), {})), [0, 1, 2]),
    ],
)
def test_what_comes_back_as_another_type_is_told_once_or_refused_when_strict(
    scoped: ScopedMemory, heard: pytest.LogCaptureFixture, value: Any, plain: Any
):
    saver = scoped.checkpointer()

    for _ in range(2):
        found = values_at(saver, put(saver, at("t"), {"a": [value]}))["a"][0]

    assert same(found.tolist() if isinstance(found, np.ndarray) else found, plain)
    [told] = heard.messages
    assert type(value).__qualname__ in told
    with pytest.raises(ValueNotStorable, match="would come back as"):
        put(scoped.checkpointer(strict=True), at("t"), {"a": [value]})


def test_a_refusal_names_the_outermost_class_the_path_in_it_and_one_cause(scoped: ScopedMemory):
    bad = Job(
        "a", [{"key of a user": Spot(1)}, Named(left=Person(name="x", free=threading.Lock()))]
    )
    for save in (
        lambda: put(scoped.checkpointer(), at("t"), {"channel": [bad]}),
        lambda: scoped.checkpointer().put_writes(at("t", "1ef4f797-8335-6428-8001-8a1503f9b875"),
                                                 [("channel", bad)], "task"),
        lambda: scoped.store().put(("n",), "k", {"v": bad}),
    ):  # fmt: skip
        with pytest.raises(ValueNotStorable) as refusal:
            save()
        assert refusal.value.outermost == f"{__name__}.Job"
        assert refusal.value.path == "steps[1].left.free"
        assert refusal.value.type_name == "_thread.lock"
        assert str(refusal.value).count("no stored form") == 1
        assert "key of a user" not in str(refusal.value)
    with pytest.raises(ValueNotStorable) as refusal:
        put(scoped.checkpointer(allow=[Job]), at("t"), {"channel": [bad]})
    assert refusal.value.type_name == f"{__name__}.Spot"
    assert (refusal.value.outermost, refusal.value.path) == (f"{__name__}.Job", "steps[0][…]")


def test_strict_refuses_the_outermost_class_that_is_not_allowed(scoped: ScopedMemory):
    with pytest.raises(ValueNotStorable, match=r"allow=\[") as refusal:
        put(scoped.checkpointer(strict=True), at("t"), {"a": Job("x", [Spot(1)])})

    assert refusal.value.type_name == f"{__name__}.Job"


def test_history_refuses_what_has_no_stored_form_and_writes_nothing(scoped: ScopedMemory):
    history = scoped.chat_history("s")

    with pytest.raises(ValueNotStorable, match="artifact"):
        history.add_messages(
            [HumanMessage("a"), ToolMessage("b", tool_call_id="1", artifact=[threading.Lock()])]
        )

    assert history.messages == []


async def test_recording_keeps_what_it_can_and_marks_what_it_cannot(
    memory: IsolatedMemory, scoped: ScopedMemory, heard: pytest.LogCaptureFixture
):
    odd = AIMessage("hi", id="1", additional_kwargs={"it": Person(name="a", free=threading.Lock())})
    chain = RunnableLambda(lambda _: "?") | FakeMessagesListChatModel(responses=[odd])

    result = await chain.ainvoke("?", {"callbacks": [scoped.callback_handler("s")]})

    assert result.additional_kwargs["it"].free is odd.additional_kwargs["it"].free
    [_, kept] = scoped.chat_history("s").messages
    assert kept.additional_kwargs["it"]["name"] == "a"
    assert kept.additional_kwargs["it"]["free"] == "<_thread.lock>"
    assert kept.response_metadata[NOT_STORED] == [f"{__name__}.Person", "_thread.lock"]
    assert heard.messages


# --- what LangGraph swallows ----------------------------------------------------------------------


class LockState(TypedDict, total=False):
    lock: Any
    ok: str


def with_team(saver: Any) -> Any:
    team = StateGraph(LockState).add_node("plan", lambda _: {"lock": threading.Lock()})
    team = team.add_node("approve", lambda _: {"ok": interrupt("approve?")})
    compiled = team.add_edge(START, "plan").add_edge("plan", "approve").compile()
    graph = StateGraph(LockState).add_node("team", compiled).add_edge(START, "team")
    return graph.compile(checkpointer=saver)


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_refusal_in_a_subgraph_that_interrupts_is_told_before_a_person_is_asked(
    scoped: ScopedMemory, heard: pytest.LogCaptureFixture, is_async: bool
):
    graph = with_team(scoped.checkpointer())

    async def run() -> None:
        await graph.ainvoke({}, at("t")) if is_async else graph.invoke({}, at("t"))

    with pytest.raises(ValueNotStorable, match=r"_thread\.lock"):
        await run()

    errors = [one for one in heard.records if one.levelno == logging.ERROR]
    assert errors
    assert all("_thread.lock" in one.getMessage() for one in errors)
    # Once: who was told can go on with the thread, and others were never concerned.
    assert graph.get_state(at("t")) is not None
    assert graph.get_state(at("other")).values == {}


def test_a_refusal_in_a_subgraph_is_raised_by_the_next_call_for_its_thread_once(
    scoped: ScopedMemory,
):
    saver, config = scoped.checkpointer(), put(scoped.checkpointer(), at("t"), {"n": 1})
    run = {"__pregel_runtime": object()}
    below = at("t", config["configurable"]["checkpoint_id"], "team:1", **run)
    with pytest.raises(ValueNotStorable):
        saver.put_writes(below, [("a", threading.Lock())], "task")

    saver.get_tuple(at("other"))
    with pytest.raises(ValueNotStorable):
        saver.put_writes({**below}, [("a", 1)], "other task")
    with pytest.raises(ValueNotStorable, match=r"_thread\.lock"):
        saver.get_tuple(at("t"))
    assert saver.get_tuple(at("t")) is not None


# --- odd text and depth ---------------------------------------------------------------------------

HALF = "half \ud83d"


async def test_half_an_emoji_is_stored_exactly_wherever_it_stands(scoped: ScopedMemory, door: Door):
    call = {"name": HALF, "args": {HALF: HALF}, "id": HALF, "type": "tool_call"}
    said = AIMessage(HALF, name=HALF, id=HALF, additional_kwargs={HALF: [HALF]})
    said.tool_calls = [call]  # type: ignore[list-item]
    messages = [HumanMessage([{"type": "text", "text": HALF}]), said]
    history, saver = scoped.chat_history("s", idempotent=True), scoped.checkpointer()
    values = {HALF: messages, "k": {HALF: {HALF: 1}}, "large": {HALF: HALF * 100}}

    await door(history, "add_messages", messages)
    await door(history, "add_messages", messages[1:])
    config = await door(saver, "put", at("t"), checkpoint(values), {HALF: HALF}, {})

    assert await door(history, "messages") == messages
    found = await door(saver, "get_tuple", config)
    assert found.checkpoint["channel_values"] == values
    assert found.metadata[HALF] == HALF
    assert [one.metadata for one in saver.list(at("t"), filter={HALF: HALF})] == [found.metadata]
    assert HALF in {found.text for found in scoped.recall("half")}


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: {"k": v}], ids=["lists", "dicts"])
def test_lists_and_dicts_may_be_as_deep_as_in_memory(scoped: ScopedMemory, wrap: Any):
    saver, stock = scoped.checkpointer(), InMemorySaver()
    value: Any = HumanMessage("deep")
    for _ in range(200):
        value = wrap(value)

    for one in (stock, saver):
        assert values_at(one, put(one, at("t"), {"a": value}))["a"] == value
    for _ in range(2000):
        value = wrap(value)
    with pytest.raises(ValueNotStorable, match="nested too deeply"):
        put(saver, at("t"), {"a": value})


@pytest.mark.parametrize("wrap", [Named, Job, lambda v: Person(name="a", free=v)])
def test_objects_may_be_nested_a_hundred_deep(scoped: ScopedMemory, wrap: Any):
    value: Any = 1
    for _ in range(100):
        value = wrap("x", [value]) if wrap is Job else wrap(value)
    saver = scoped.checkpointer()

    assert values_at(saver, put(saver, at("t"), {"a": value}))["a"] == value
    assert decode_value(encode_value(value, "a test")) == value
