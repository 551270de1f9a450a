"""Adoption of third-party vector stores in place: their documents without an owner get one."""
