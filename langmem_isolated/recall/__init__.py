"""Recall: hybrid search over all chat sessions and threads of one scope."""

from langmem_isolated.recall.options import Part, RecallOptions
from langmem_isolated.recall.results import Recalled
from langmem_isolated.recall.search import Recall

__all__ = ["Part", "Recall", "RecallOptions", "Recalled"]
