"""Steps of a search, performed by a thread or by a task: one body for both."""

from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

from langchain_core.embeddings import Embeddings

T = TypeVar("T")


class Embed(NamedTuple):
    """A call of a model."""

    method: Literal["embed_query", "embed_documents"]
    texts: str | list[str]


Step = Callable[[], Any] | Embed
"""What is done with the records, or by the model; what it raises is raised inside the steps."""
Steps = Generator[Step, Any, T]


def perform(steps: Steps[T], embeddings: Embeddings | None) -> T:
    """Perform each step in this thread, and return what they come to."""
    try:
        step = next(steps)
        while True:
            try:
                answer = _of_model(step, embeddings) if isinstance(step, Embed) else step()
            except Exception as error:  # noqa: BLE001 - raised again inside the steps
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


async def aperform(
    steps: Steps[T],
    embeddings: Embeddings | None,
    arun: Callable[[Callable[[], Any]], Awaitable[Any]],
) -> T:
    """As :func:`perform`, in a task: the model's steps on the event loop, others by ``arun``."""
    try:
        step = next(steps)
        while True:
            try:
                if isinstance(step, Embed):
                    answer = await _aof_model(step, embeddings)
                else:
                    answer = await arun(step)
            except Exception as error:  # noqa: BLE001 - raised again inside the steps
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


def _of_model(step: Embed, embeddings: Embeddings | None) -> Any:
    return getattr(embeddings, step.method)(step.texts)


def _aof_model(step: Embed, embeddings: Embeddings | None) -> Awaitable[Any]:
    """The model's answer; by LangChain's own way to a thread where a model has no async method."""
    method = f"a{step.method}"
    own = getattr(embeddings, method, None) or partial(getattr(Embeddings, method), embeddings)
    answer: Awaitable[Any] = own(step.texts)
    return answer
