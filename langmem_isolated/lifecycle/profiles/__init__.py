"""Profiles: what a module knows of a user, typed."""
