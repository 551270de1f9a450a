"""Embeddings for tests: texts that share letters are near each other, always in the same way."""

import zlib

import numpy as np
from langchain_core.embeddings import Embeddings

DIMENSIONS = 64


class NGramEmbeddings(Embeddings):
    """Counts groups of three letters in as many buckets as there are dimensions."""

    def __init__(self, dimensions: int = DIMENSIONS) -> None:
        self.dimensions = dimensions

    def embed_query(self, text: str) -> list[float]:
        padded = f"  {text.lower()} "
        vector = np.zeros(self.dimensions)
        for start in range(len(padded) - 2):
            vector[zlib.crc32(padded[start : start + 3].encode()) % self.dimensions] += 1
        unit: list[float] = (vector / np.linalg.norm(vector)).tolist()
        return unit

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]
