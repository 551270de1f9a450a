"""Confidence: what a sample without a flaw says of all that it was drawn from."""

from __future__ import annotations

import math
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Coverage:
    """A simple random sample of scopes, and what it proves if nothing was found in it.

    Were ``d`` of ``population`` scopes damaged, a sample of ``sampled`` would meet none of them
    with the probability ``C(population - d, sampled) / C(population, sampled)`` (hypergeometric).
    ``at_most`` is the largest ``d`` for which that is above ``1 - confidence``: with that
    confidence no more are damaged, the exact one-sided limit of Clopper and Pearson (Biometrika 26,
    1934) for a finite population. Where the population is large it is about ``3 / sampled`` of it,
    the rule of three (Hanley and Lippman-Hand, JAMA 249, 1983).

    It speaks of damage that does not know the sample. Who damages one scope is met with the
    probability ``sampled / population``.
    """

    sampled: int
    population: int
    confidence: float = CONFIDENCE

    @property
    def at_most(self) -> int:
        """How many scopes may be damaged, at most."""
        low, high = 0, self.population - self.sampled
        if self.sampled == 0:
            return self.population
        while low < high:
            middle = (low + high + 1) // 2
            if self.chance_to_miss(middle) > 1 - self.confidence:
                low = middle
            else:
                high = middle - 1
        return low

    def chance_to_miss(self, damaged: int) -> float:
        """The probability that a sample has none of ``damaged`` scopes in it, from 0 to 1."""
        if damaged > self.population - self.sampled:
            return 0.0
        return math.exp(
            _log_choose(self.population - damaged, self.sampled)
            - _log_choose(self.population, self.sampled)
        )

    def as_dict(self) -> dict[str, object]:
        """As JSON has it; the share in parts per million, so that it is a whole number."""
        return {
            "sampled": self.sampled,
            "population": self.population,
            "confidence_percent": round(100 * self.confidence),
            "damaged_at_most": self.at_most,
        }


def _log_choose(of: int, chosen: int) -> float:
    return math.lgamma(of + 1) - math.lgamma(chosen + 1) - math.lgamma(of - chosen + 1)
