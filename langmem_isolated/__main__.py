"""Runs the command line as ``python -m langmem_isolated``."""

from langmem_isolated.cli import main

main()
