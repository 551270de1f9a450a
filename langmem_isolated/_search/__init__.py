"""Ranks and filters what was opened: by words, by vectors, by fields."""
