"""Ranking and filtering of what was opened: by words, by vectors, by fields."""
