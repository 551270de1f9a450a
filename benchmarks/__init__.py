"""Compares us with other drivers, in turn and in one process; run with ``python -m``."""
