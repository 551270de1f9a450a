"""Erasure of all that somebody has, with a receipt that says what it proves and what not."""
