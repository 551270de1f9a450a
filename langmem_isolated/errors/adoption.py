"""Errors about adopting documents of third-party vector stores."""

from langmem_isolated.errors.core import LangmemIsolatedError


class AdoptionNotVerified(LangmemIsolatedError):
    """What an owner finds of a document that was adopted is not what the store had.

    Args:
        place: Of the document in its store.
        what: What differs, such as ``"its vector"``; no content.
    """

    def __init__(self, place: str, what: str) -> None:
        super().__init__(
            f"What its owner finds in place of {place} is not what the store has: {what}. The "
            "adoption ended there, and the document is where it was. Roll the adoption back with "
            "its journal, on the command line adopt --roll-back."
        )
        self.place, self.what = place, what


class JournalRefused(LangmemIsolatedError, ValueError):
    """A file is no journal of an adoption, or of another one.

    Args:
        why: What is wrong; no content.
    """

    def __init__(self, why: str) -> None:
        super().__init__(
            f"The journal cannot be used: {why}. Nothing was changed. An adoption that goes on, or "
            "is rolled back, takes the file that it wrote; a new one takes a new name."
        )
        self.why = why
