"""Stored bodies of checkpoints and writes: which elements they need, and what they tell without."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import ormsgpack

from langmem_isolated._codecs.checkpoints.layout import (
    run_length_decode,
    run_length_encode,
    structure,
)
from langmem_isolated.errors import RecordError

BODY_V1 = b"\x01"


class Body(NamedTuple):
    """A stored body whose references are still numbers."""

    numbers: list[int]
    packed: bytes
    chunks: list[int]
    """The numbers of elements that list the numbers of others."""

    @classmethod
    def of(cls, plaintext: bytes) -> "Body":
        """A body as it was sealed.

        Raises:
            RecordError: A later version stored it.
        """
        if plaintext[:1] != BODY_V1:
            raise RecordError(
                f"A checkpoint is stored in form {plaintext[0]}, this version knows {BODY_V1[0]}. "
                "Nothing was changed; install a later langmem-isolated."
            )
        runs, packed, *chunks = ormsgpack.unpackb(plaintext[1:])
        return cls(run_length_decode(runs), packed, run_length_decode(chunks[0]) if chunks else [])

    @staticmethod
    def sealed_form(runs: Iterable[range], packed: bytes, chunks: Sequence[range] = ()) -> bytes:
        """The plaintext that :meth:`of` reads."""
        parts = [run_length_encode(runs), packed]
        if chunks:
            parts.append(run_length_encode(chunks))
        return BODY_V1 + ormsgpack.packb(parts)


class Outline(NamedTuple):
    """What a checkpoint's body tells without its elements."""

    parent: bytes | None
    namespace: str
    envelope: dict[str, Any]
    metadata: dict[str, Any]
    values: dict[str, Any]

    @classmethod
    def of(cls, plaintext: bytes) -> "Outline":
        """The outline of a checkpoint as it was sealed."""
        return cls(*structure(Body.of(plaintext).packed))

    @property
    def run_id(self) -> str | None:
        """The run that stored it, where it says."""
        run_id = self.metadata.get("run_id")
        return run_id if isinstance(run_id, str) else None


def task_of(plaintext: bytes) -> str:
    """The id of the task whose writes a body holds."""
    task_id: str = structure(Body.of(plaintext).packed)[0]
    return task_id
