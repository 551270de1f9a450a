"""Checkpointer of LangGraph, isolated and encrypted."""

from langmem_isolated.checkpointer.channel_values import thread_values
from langmem_isolated.checkpointer.retention import prune_thread
from langmem_isolated.checkpointer.saver import IsolatedCheckpointSaver
from langmem_isolated.checkpointer.thread import Thread
from langmem_isolated.checkpointer.thread_encoder import (
    NewCheckpoint,
    TaskWrites,
    ThreadEncoder,
    stored_checkpoints,
)

__all__ = [
    "IsolatedCheckpointSaver",
    "NewCheckpoint",
    "TaskWrites",
    "Thread",
    "ThreadEncoder",
    "prune_thread",
    "stored_checkpoints",
    "thread_values",
]
