"""Moves: all of an installation into another database, or its keys into a key store."""
