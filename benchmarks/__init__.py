"""Compares us with other drivers, in turn and in one process; run with ``python -m``."""

import warnings

# Importing the peer says that it is no longer maintained; it is measured because it is used.
warnings.filterwarnings("ignore", message=".*langchain-community.*", category=DeprecationWarning)
