"""`import` and `rollback`: move what other stores have into scopes, and take it out again."""

from langmem_isolated.cli.importing.group import commands
from langmem_isolated.cli.importing.rollback import rollback

__all__ = ["commands", "rollback"]
