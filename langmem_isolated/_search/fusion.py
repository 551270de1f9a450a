"""Fusion of scores: of messages with those beside them, and of words with meaning."""

from collections.abc import Iterable, Sequence
from math import sqrt

# Parts of the scores of the messages one, two and three before, and as many after. A question
# seldom shares its words with the message that answers it, but with one before. Found on
# conversations with 530 questions (benchmarks/recall.py): of the answers among the first ten, words
# alone have 0.34, with half of the score of either neighbour 0.40, and with these 0.46.
WORDS_BESIDE = ((0.6, 0.4, 0.2), (0.5, 0.3, 0.2))
MEANING_BESIDE = ((0.5, 0.2), (0.4, 0.2))

Weights = tuple[Sequence[float], Sequence[float]]


def with_neighbours(
    scores: Sequence[float], conversations: Iterable[Sequence[int]], weights: Weights
) -> list[float]:
    """Each score plus parts of those beside it in its conversation.

    Args:
        scores: Of all messages.
        conversations: The numbers of the messages of each, in their order.
        weights: Of the first, second, … message before, and after.
    """
    summed = [*scores]
    for numbers in conversations:
        for number, score in zip(
            numbers, _beside([scores[n] for n in numbers], weights), strict=True
        ):
            summed[number] = score
    return summed


def _beside(line: list[float], weights: Weights) -> list[float]:
    summed = line
    for distance, (earlier, later) in enumerate(zip(*weights, strict=True), start=1):
        edge = [0.0] * min(distance, len(line))
        before, after = edge + line[:-distance], line[distance:] + edge
        summed = [
            score + earlier * one + later * other
            for score, one, other in zip(summed, before, after, strict=True)
        ]
    return summed


def nearest(scores: Sequence[float | None], count: int) -> list[int]:
    """The numbers of the ``count`` texts that are nearest in meaning, the nearest first."""
    scored = [(score, number) for number, score in enumerate(scores) if score and score > 0]
    scored.sort(reverse=True)
    return [number for _, number in scored[:count]]


def standardised(scores: Sequence[float]) -> list[float]:
    """Each score as its distance from their mean, in standard deviations; 0 if all are equal."""
    if not scores:
        return []
    mean = sum(scores) / len(scores)
    deviation = sqrt(sum((score - mean) ** 2 for score in scores) / len(scores))
    # Of equal numbers, rounding leaves a rest.
    if deviation <= 1e-12 * max(1.0, abs(mean)):
        return [0.0] * len(scores)
    return [(score - mean) / deviation for score in scores]
