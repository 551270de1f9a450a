"""A LangGraph checkpointer: the saver, and how it stores checkpoints and finds them again."""

from langmem_isolated.checkpointer.saver import IsolatedCheckpointSaver
from langmem_isolated.checkpointer.thread import Thread

__all__ = ["IsolatedCheckpointSaver", "Thread"]
