"""Steps of a search, performed by a thread or by a task: one body for both."""

from collections.abc import Awaitable, Callable, Generator
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
                    answer = await _of_model(step, embeddings, "a")
                else:
                    answer = await arun(step)
            except Exception as error:  # noqa: BLE001 - raised again inside the steps
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


def _of_model(step: Embed, embeddings: Embeddings | None, prefix: str = "") -> Any:
    return getattr(embeddings, prefix + step.method)(step.texts)
