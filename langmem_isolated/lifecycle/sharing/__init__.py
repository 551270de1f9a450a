"""Sharing inside one user: grants, views by them, merges and copies."""
