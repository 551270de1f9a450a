"""Personas on Discord: each is a module, and knows of a user what it was told itself."""
