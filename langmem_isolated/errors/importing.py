"""Errors about moving in: sources that cannot be read, records without an owner, receipts."""

from langmem_isolated.errors.core import LangmemIsolatedError


class SourceRefused(LangmemIsolatedError, ValueError):
    """A source is not what the importer reads, or cannot be read at all; nothing was imported.

    Args:
        what: What it looks like; no content.
        instead: What would work.
    """

    def __init__(self, what: str, instead: str) -> None:
        super().__init__(f"{what}. {instead} Nothing was imported, and the source is as it was.")
        self.what, self.instead = what, instead


class MappingRefused(LangmemIsolatedError, ValueError):
    """Rules of a mapping cannot be meant, or leave out the user or the module; nothing was read.

    Args:
        what: What is wrong with them, and what was expected; no id.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} Nothing was imported.")
        self.what = what


class RecordsUnmapped(LangmemIsolatedError):
    """Records of a source have no scope by the mapping; nothing was imported.

    Args:
        count: How many sessions, threads, items, documents or profiles.
        place: Where the first stands in its source.
        reason: Why it has none; no content.
    """

    def __init__(self, count: int, place: str, reason: str) -> None:
        super().__init__(
            f"{count:,} of the source have no owner by this mapping; the first, {place}: {reason}. "
            "Nothing was imported. Give a rule that maps them, or unmapped='skip' or 'report', on "
            "the command line --unmapped, to leave them out. There is no default user."
        )
        self.count, self.place, self.reason = count, place, reason


class ImportPlaceTaken(LangmemIsolatedError, ValueError):
    """Another file stands where an import would write; it was left alone, and nothing imported.

    Args:
        what: ``"receipt"`` or ``"rejects"``.
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            f"Something that is not of this import stands where its {what} would go, and stays. "
            f"Nothing was imported. Give another place: {what}=…, on the command line --{what}."
        )
        self.what = what


class ImportNotVerified(LangmemIsolatedError):
    """What was read back after it had been put in is not what the source has.

    Args:
        place: Of the record in its source.
        what: What differs, such as ``"the number of messages"``; no content.
    """

    def __init__(self, place: str, what: str) -> None:
        super().__init__(
            f"What was put in for {place} is not what the source has: {what}. The import ended "
            "there. memory.roll_back(…), on the command line rollback, takes out all of it."
        )
        self.place, self.what = place, what


class ReceiptRefused(LangmemIsolatedError, ValueError):
    """A file is no receipt of an import, or of an import into another database.

    Args:
        why: What is wrong; no content.
    """

    def __init__(self, why: str) -> None:
        super().__init__(
            f"The import cannot be rolled back with this receipt: {why}. Nothing was changed. Give "
            "the file that the import wrote, and the database that it wrote into."
        )
        self.why = why
