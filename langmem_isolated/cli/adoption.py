"""`adopt`: gives documents of a third-party vector store that bear no owner to their scopes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from langmem_isolated.cli.importing.options import ImportOptions, shared_parameters
from langmem_isolated.cli.importing.report import print_plan
from langmem_isolated.cli.terminal import as_usage, counting, print_counts, print_json
from langmem_isolated.errors import LangmemIsolatedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_core.vectorstores import VectorStore

    from langmem_isolated.memory import IsolatedMemory

_LEFT_OUT = 3
# What it has in common with imports.
_SHARED = {
    *("user", "user_column", "user_path", "module", "module_column", "module_path"),
    *("project", "project_column", "project_path"),
    *("id_pattern", "map", "map_function", "mapping", "unmapped", "readmit"),
    *("dry_run", "by_scope", "as_json", "database", "key_store"),
}


class StoreKind(StrEnum):
    """Vector stores that can be named."""

    chroma = "chroma"
    qdrant = "qdrant"
    pgvector = "pgvector"


class _NotWritten(LangmemIsolatedError):
    """The file system refused."""

    def __init__(self, reason: str | None) -> None:
        super().__init__(
            f"The journal could not be read or written: {reason}. Give --journal a file in a "
            "folder that can be written. The same command goes on."
        )


KindArgument = Annotated[StoreKind, typer.Argument(help="What the store is.")]
LocationArgument = Annotated[
    str, typer.Argument(help="Its folder or http:// URL; of pgvector a URL of PostgreSQL.")
]
CollectionOption = Annotated[
    str, typer.Option("--collection", help="Its collection; of pgvector the table.")
]
SealOption = Annotated[bool, typer.Option("--seal", help="Seal text and metadata in the store.")]
JournalOption = Annotated[Path, typer.Option("--journal", help="The file for the way back.")]
RollBackOption = Annotated[bool, typer.Option("--roll-back", help="Put back what the journal has.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def adopt(
    kind: KindArgument,
    location: LocationArgument,
    *,
    collection: CollectionOption,
    seal: SealOption = False,
    journal: JournalOption = Path("adoption.jsonl"),
    roll_back: RollBackOption = False,
    yes: YesOption = False,
    **given: Any,
) -> None:
    """Give what a vector store has without an owner to its owners, in place. Needs the root key.

    Each document keeps its vector; nothing is embedded. Interrupted, the same command goes on.
    The status is 3 if something is left without an owner, or as its owner changed it since.
    """
    from langmem_isolated.cli.databases import existing_memory
    from langmem_isolated.importers import named_store

    asked = ImportOptions(**given)
    memory = existing_memory(asked.database, asked.key_store)
    with as_usage(), _as_one_line(), memory, counting("documents") as progress:
        memory.open()
        store = named_store(kind.value, location, collection)
        if roll_back:
            _agree("This puts back what was adopted. Go on?", is_agreed=yes)
            is_whole = _roll_back(memory, store, journal, progress, as_json=asked.as_json)
        else:
            if not asked.dry_run:
                _agree("This changes the store in place. Go on?", is_agreed=yes)
            is_whole = _adopt(memory, store, asked, progress, seal=seal, journal=journal)
    if not is_whole:
        raise typer.Exit(_LEFT_OUT)


def _adopt(
    memory: IsolatedMemory,
    store: VectorStore,
    asked: ImportOptions,
    progress: Callable[[int], None],
    *,
    seal: bool,
    journal: Path,
) -> bool:
    from langmem_isolated.importers import Adoption

    adoption = Adoption(
        memory,
        store,
        asked.rules(),
        journal=journal,
        unmapped=asked.unmapped.value,
        seal=seal,
        readmit=asked.readmit or (),
        progress=progress,
    )
    if not asked.dry_run:
        return _told(asdict(adoption.run()), "adopted", as_json=asked.as_json)
    plan = adoption.plan(by_scope=asked.by_scope)
    if asked.as_json:
        print_json(plan.as_dict())
    else:
        print_plan(plan, unmapped=asked.unmapped.value)
    return plan.is_whole


def _roll_back(
    memory: IsolatedMemory,
    store: VectorStore,
    journal: Path,
    progress: Callable[[int], None],
    *,
    as_json: bool,
) -> bool:
    from langmem_isolated.importers import roll_back_adoption

    undone = roll_back_adoption(memory, store, journal, progress=progress)
    return _told(asdict(undone), "without an owner again", as_json=as_json)


def _agree(question: str, *, is_agreed: bool) -> None:
    if not is_agreed:
        typer.confirm(question, abort=True, err=True)


def _told(result: dict[str, Any], what: str, *, as_json: bool) -> bool:
    if as_json:
        print_json(result)
    else:
        typer.echo(f"{result['documents']:,} documents {what}.")
        if result["left"]:
            print_counts(result["left"], nothing="", what="left as it is")
    return not result["left"]


@contextmanager
def _as_one_line() -> Iterator[None]:
    try:
        yield
    except LangmemIsolatedError:
        raise
    except OSError as error:
        raise _NotWritten(error.strerror) from None


def _signature() -> Signature:
    named = Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY
    own = [
        Parameter("kind", named[0], annotation=KindArgument),
        Parameter("location", named[0], annotation=LocationArgument),
        Parameter("collection", named[1], annotation=CollectionOption),
        *(one for one in shared_parameters() if one.name in _SHARED),
        Parameter("seal", named[1], default=False, annotation=SealOption),
        Parameter("journal", named[1], default=Path("adoption.jsonl"), annotation=JournalOption),
        Parameter("roll_back", named[1], default=False, annotation=RollBackOption),
        Parameter("yes", named[1], default=False, annotation=YesOption),
    ]
    return Signature(own)


adopt.__signature__ = _signature()  # type: ignore[attr-defined]
