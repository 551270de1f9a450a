"""Rotation of sealing keys, and what is pending of it."""
