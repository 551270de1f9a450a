"""Graphs, agents, chains and other Runnables of LangChain, called in each way that they have."""

from collections.abc import Callable, Mapping
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig

from langmem_isolated.testing.applications import Application, Way, look
from langmem_isolated.testing.sightings import Eye, Turn

_MODES = ["values", "updates", "messages"]
"""Stream modes of LangGraph in which an application's texts come."""


def config_of_session(_: str, session: str) -> RunnableConfig:
    """A config that names thread and session, as LangGraph and LangChain ask for them.

    Every user sends the same ids, as clients do.
    """
    return {"configurable": {"thread_id": session, "session_id": session}}


def config_of_user(user: str, session: str) -> RunnableConfig:
    """A config that names the user as well, as this library asks for it where nothing is bound."""
    named = config_of_session(user, session)["configurable"]
    return {"configurable": {**named, "user_id": user, "module_id": "chat"}}


class RunnableApplication(Application):
    """A Runnable, whose config says who calls."""

    def __init__(
        self,
        app: Runnable[Any, Any],
        *,
        config: Callable[[str, str], RunnableConfig],
        input: Callable[[str], Any] | None,  # noqa: A002 - as LangChain calls it
        options: Callable[[str, str], Mapping[str, Any]] | None,
        state: Callable[..., Any] | None,
    ) -> None:
        self._app: Any = app
        self._is_graph = hasattr(app, "get_state")
        self._config = config
        self._input = input or self._default_input
        self._options = options or (lambda *_: {})
        self._state = state

    def _default_input(self, text: str) -> Any:
        return {"messages": [("human", text)]} if self._is_graph else text

    @property
    def ways(self) -> tuple[Way, ...]:
        """Those of every Runnable."""
        return (
            Way("invoke", in_thread=self._invoke),
            Way("ainvoke", in_task=self._ainvoke),
            Way("stream", in_thread=self._stream),
            Way("astream", in_task=self._astream),
            Way("astream_events", in_task=self._astream_events),
            Way("batch", in_thread=self._batch),
            Way("stream, closed early", in_thread=self._stream_closed),
        )

    def _call(self, turn: Turn) -> tuple[Any, RunnableConfig]:
        return self._input(turn.text), self._config(turn.user, turn.session)

    def _more(self, turn: Turn) -> dict[str, Any]:
        return {**self._options(turn.user, turn.session)}

    def _streaming(self, turn: Turn) -> dict[str, Any]:
        return {**({"stream_mode": _MODES} if self._is_graph else {}), **self._more(turn)}

    def _invoke(self, turn: Turn, eye: Eye) -> None:
        eye.sees("reply", self._app.invoke(*self._call(turn), **self._more(turn)))

    async def _ainvoke(self, turn: Turn, eye: Eye) -> None:
        eye.sees("reply", await self._app.ainvoke(*self._call(turn), **self._more(turn)))

    def _stream(self, turn: Turn, eye: Eye) -> None:
        for part in self._app.stream(*self._call(turn), **self._streaming(turn)):
            eye.streams("streamed chunk", part)

    def _stream_closed(self, turn: Turn, eye: Eye) -> None:
        parts = self._app.stream(*self._call(turn), **self._streaming(turn))
        eye.streams("streamed chunk", next(parts, None))
        parts.close()

    async def _astream(self, turn: Turn, eye: Eye) -> None:
        async for part in self._app.astream(*self._call(turn), **self._streaming(turn)):
            eye.streams("streamed chunk", part)

    async def _astream_events(self, turn: Turn, eye: Eye) -> None:
        events = self._app.astream_events(*self._call(turn), version="v2", **self._more(turn))
        async for event in events:
            # An event names the chunks of one run of a part; those of two are not one text.
            eye.streams(f"event {event['event']}", event.get("data"))

    def _batch(self, turn: Turn, eye: Eye) -> None:
        given, config = self._call(turn)
        for reply in self._app.batch([given], [config], **self._more(turn)):
            eye.sees("reply", reply)

    @property
    def has_state(self) -> bool:
        """Whether the graph has a checkpointer, or the test said how to look."""
        return self._state is not None or self._keeps_state

    @property
    def _keeps_state(self) -> bool:
        return self._is_graph and bool(getattr(self._app, "checkpointer", None))

    async def look_at_state(self, turn: Turn, eye: Eye) -> None:
        """Show the graph's state and its history."""
        await look(self._state, turn, eye)
        if self._keeps_state:
            config = self._config(turn.user, turn.session)
            eye.sees("state", await self._app.aget_state(config))
            async for snapshot in self._app.aget_state_history(config, limit=3):
                eye.sees("state's history", snapshot)
