"""Checkpointer of LangGraph, isolated and encrypted."""

from langmem_isolated.checkpointer.saver import IsolatedCheckpointSaver
from langmem_isolated.checkpointer.thread import Thread

__all__ = ["IsolatedCheckpointSaver", "Thread"]
