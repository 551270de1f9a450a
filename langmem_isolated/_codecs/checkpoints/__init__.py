"""Checkpoint serialization: LangGraph's values as msgpack with references to shared elements.

Messages, and the larger parts of lists and values, are *elements*: immutable, stored once in a
thread, known by a number. An encoded value says where an element stands and leaves the number to
the table of its body, so it can be encoded before new elements have got their numbers.
"""
