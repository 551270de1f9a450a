"""Exact nearest-neighbour search over packed embeddings; the only home of `numpy`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.vectorstores.utils import maximal_marginal_relevance

if TYPE_CHECKING:
    import numpy as np

    Vectors = np.ndarray[Any, np.dtype[np.float32]]
    Scores = np.ndarray[Any, np.dtype[np.float32]]


def is_available() -> bool:
    """Whether NumPy is installed."""
    return importlib.util.find_spec("numpy") is not None


def _numpy() -> Any:
    try:
        return importlib.import_module("numpy")
    except ImportError:
        raise ImportError(
            "Semantic search ranks with NumPy. Install it: pip install 'langmem-isolated[vector]'"
        ) from None


def check_installed() -> None:
    """Raise ImportError, with what to install, unless NumPy is there."""
    _numpy()


def _numbers(vector: object) -> Vectors:
    """A vector as float32, whatever a provider took for one.

    Raises:
        ValueError: It is no list of numbers.
    """
    np = _numpy()
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            numbers: Vectors = np.asarray(vector, dtype="<f4")
    except (TypeError, ValueError, OverflowError):
        numbers = np.empty(())
    if numbers.ndim != 1:
        raise ValueError(
            f"An embedding must have numbers in a list, got one {type(vector).__name__}. See what "
            "embed_query and embed_documents of the embeddings return."
        )
    return numbers


def _cosine(query: Vectors, vectors: Vectors) -> Scores:
    np = _numpy()
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors)) * np.linalg.norm(query)
    # A vector of zeros points nowhere: like nothing, it scores 0.
    similarity: Scores = np.divide(
        _inner_product(query, vectors), norms, out=np.zeros_like(norms), where=norms > 0
    )
    return similarity


def _inner_product(query: Vectors, vectors: Vectors) -> Scores:
    # Not `@`: it sums the last rows in another order than the others, so that equal vectors get
    # scores that differ in the last bit. And 10,000 of 384 numbers take 0.6 ms instead of 1 to 20.
    products: Scores = _numpy().einsum("ij,j->i", vectors, query)
    return products


def _l2(query: Vectors, vectors: Vectors) -> Scores:
    distance: Scores = _numpy().linalg.norm(vectors - query, axis=1)
    return -distance


# By name as the peers have them; the higher the score, the nearer.
_DISTANCES: Mapping[str, Callable[[Vectors, Vectors], Scores]] = {
    "cosine": _cosine,
    "inner_product": _inner_product,
    "l2": _l2,
}


class VectorSpace:
    """Vectors of one length, compared in one way.

    Args:
        dimensions: Numbers in a vector.
        distance: ``"cosine"``, ``"inner_product"`` or ``"l2"``.

    Raises:
        ValueError: ``dimensions`` is not a whole number above 0, or ``distance`` another word.
        ImportError: NumPy is not installed.
    """

    def __init__(self, dimensions: int, distance: str = "cosine") -> None:
        if type(dimensions) is not int or dimensions < 1:
            raise ValueError("dims must be a whole number above 0.")
        if distance not in _DISTANCES:
            raise ValueError(f"distance_type must be one of {', '.join(_DISTANCES)}.")
        self._np = _numpy()
        self.dimensions = dimensions
        self._distance = _DISTANCES[distance]

    @classmethod
    def of(cls, vector: Sequence[float]) -> VectorSpace:
        """The space that a vector is in, by cosine.

        Raises:
            ValueError: :meth:`pack` refuses it, or it is empty.
        """
        space = cls(len(_numbers(vector)))
        space.pack(vector)
        return space

    def pack(self, vector: Sequence[float]) -> bytes:
        """A vector as little-endian float32, 4 bytes a number.

        Raises:
            ValueError: It is no list of numbers, has another length, or its square is not finite as
                a float32.
        """
        numbers = _numbers(vector)
        if numbers.shape != (self.dimensions,):
            raise ValueError(
                f"An embedding must have {self.dimensions} numbers (dims), got {len(numbers)}."
            )
        with self._np.errstate(over="ignore", invalid="ignore"):
            # Then every score is a number, and ranks are well defined.
            if not self._np.isfinite(numbers @ numbers):
                raise ValueError("An embedding must have finite numbers of ordinary size.")
        packed: bytes = numbers.tobytes()
        return packed

    def scores(self, query: bytes, packed: Sequence[bytes]) -> list[float | None]:
        """How near each of ``packed`` is to ``query``: the nearest has the highest score.

        One of another length, from another model, has none.
        """
        size = len(query)
        fitting = [vector for vector in packed if len(vector) == size]
        if not fitting:
            return [None] * len(packed)
        vectors = self._np.frombuffer(b"".join(fitting), dtype="<f4").reshape(-1, self.dimensions)
        # All numbers are finite: what OpenBLAS warns of, now and then, are bytes behind the last.
        with self._np.errstate(invalid="ignore"):
            nearness = self._distance(self._np.frombuffer(query, dtype="<f4"), vectors)
        scores: list[float | None] = nearness.tolist()
        if len(fitting) == len(packed):
            return scores
        left = iter(scores)
        return [next(left) if len(vector) == size else None for vector in packed]


class Ranking:
    """Many embeddings of one length, opened once, to be ranked by cosine again and again.

    Args:
        packed: Embeddings as :meth:`VectorSpace.pack` makes them, one behind the other.
        length: Bytes of one.
    """

    def __init__(self, packed: bytes, length: int) -> None:
        self._np = _numpy()
        self.length = length
        self._vectors = self._np.frombuffer(packed, dtype="<f4").reshape(-1, length // 4)

    def nearest(self, query: bytes) -> Iterator[tuple[int, float]]:
        """Every row and how near it is to ``query``, nearest first, earlier rows first if equal."""
        with self._np.errstate(invalid="ignore"):
            scores = _cosine(self._np.frombuffer(query, dtype="<f4"), self._vectors)
        order = self._np.argsort(-scores, kind="stable")
        return zip(order.tolist(), scores[order].tolist(), strict=True)

    def row(self, number: int) -> bytes:
        """One embedding, packed."""
        packed: bytes = self._vectors[number].tobytes()
        return packed


def most_diverse(
    query: bytes, candidates: Sequence[bytes], count: int, lambda_mult: float
) -> list[int]:
    """Which of ``candidates`` maximal marginal relevance chooses, in its order.

    Args:
        query: Packed, as the candidates are.
        candidates: Nearest first.
        count: How many to choose.
        lambda_mult: From 0, the most diverse, to 1, the nearest.
    """
    np = _numpy()
    opened = [np.frombuffer(vector, dtype="<f4") for vector in (query, *candidates)]
    if not candidates:
        return []
    return maximal_marginal_relevance(opened[0], opened[1:], lambda_mult=lambda_mult, k=count)
