"""Reciprocal rank fusion of a ranking by words with one by meaning."""

from collections.abc import Sequence

# The constant of its authors: Cormack, Clarke, Büttcher, SIGIR 2009.
_CONSTANT = 60


def nearest(nearness: Sequence[float | None], count: int) -> list[int]:
    """The numbers of the ``count`` texts that are nearest in meaning, the nearest first."""
    scored = [(score, number) for number, score in enumerate(nearness) if score and score > 0]
    scored.sort(reverse=True)
    return [number for _, number in scored[:count]]


def reciprocal_rank_fusion(*rankings: Sequence[int]) -> list[tuple[int, float]]:
    """The numbers of all rankings with their scores, the highest first."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for place, number in enumerate(ranking, start=1):
            scores[number] = scores.get(number, 0.0) + 1 / (_CONSTANT + place)
    return sorted(scores.items(), key=lambda found: (-found[1], -found[0]))
