"""The command line, for operators: one module for each group of commands."""

from langmem_isolated.cli.app import app, main

__all__ = ["app", "main"]
