"""Checkpointer of LangGraph, isolated and encrypted."""

from langmem_isolated.checkpointer.retention import prune_thread
from langmem_isolated.checkpointer.saver import IsolatedCheckpointSaver
from langmem_isolated.checkpointer.thread import Thread

__all__ = ["IsolatedCheckpointSaver", "Thread", "prune_thread"]
