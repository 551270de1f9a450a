"""Sealed records of one owner: keys, containers, messages, threads, items, documents, entries."""
