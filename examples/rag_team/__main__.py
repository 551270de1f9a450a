"""Publish the handbooks, then have three people ask; or ask as one of them.

See README.md beside this file.
"""

import argparse
import os
from pathlib import Path

import chromadb
from langchain.chat_models import init_chat_model
from langchain.embeddings import init_embeddings
from langchain_chroma import Chroma
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel

from examples.rag_team.library import Library
from examples.rag_team.offline import LetterEmbeddings, QuotingModel
from langmem_isolated import IsolatedMemory

HANDBOOKS = Path(__file__).parent / "handbooks"
# In place of your directory: who is in which team.
TEAMS = {"alice": "payments", "bob": "payments", "mallory": "search"}
QUESTION = "What is the emergency code of the terminal?"


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser("python -m examples.rag_team", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("rag-team-data"), help="where it keeps")
    parser.add_argument("--user", choices=sorted(TEAMS), help="who asks or notes")
    parser.add_argument("--note", help="keep this for the user")
    parser.add_argument("question", nargs="?")
    given = parser.parse_args()
    if given.user is None and (given.note or given.question):
        parser.error("--user says who asks; there is no default")
    return given


def model_of_environment() -> BaseChatModel:
    """The chat model that MODEL names, or the one that quotes."""
    name = os.environ.get("MODEL")
    return init_chat_model(name) if name else QuotingModel()


def embeddings_of_environment() -> Embeddings:
    """The embeddings that EMBEDDINGS names, or those made of letters."""
    name = os.environ.get("EMBEDDINGS")
    return init_embeddings(name) if name else LetterEmbeddings()


def collection_in(folder: Path, embeddings: Embeddings) -> Chroma:
    """The one collection of all teams."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = chromadb.Settings(anonymized_telemetry=False)
    client = chromadb.PersistentClient(str(folder / "chroma"), settings=settings)
    return Chroma("documents", embeddings, client=client)


def show(library: Library, user: str, question: str) -> None:
    """Print what one person is answered."""
    answer = library.member(user, TEAMS[user]).ask(question)
    print(f"{user} ({TEAMS[user]}): {answer.text}", answer.sources or "")


def everybody(library: Library, shared: Chroma) -> None:
    """Notes, one question asked by three, and the collection asked without a scope."""
    library.member("alice", "payments").note("My own code of the terminal door is 4711.")
    for user in TEAMS:
        show(library, user, QUESTION)
    show(library, "alice", "What is my own code of the door?")
    show(library, "bob", "What is my own code of the door?")
    (found,) = shared.similarity_search(QUESTION, k=1)
    print("without a scope:", found.page_content[:40], "…")


def main() -> None:
    """Run what the command line says."""
    given = arguments()
    shared = collection_in(given.folder, embeddings_of_environment())
    database = f"sqlite:///{given.folder.resolve()}/memory.db"
    with IsolatedMemory(database) as memory:
        library = Library(memory, shared, model_of_environment())
        for folder in sorted(HANDBOOKS.iterdir()):
            print(f"handbook of {folder.name}:", library.publish(folder.name, folder))
        if given.note:
            print("noted:", library.member(given.user, TEAMS[given.user]).note(given.note))
        if given.question:
            show(library, given.user, given.question)
        if given.user is None:
            everybody(library, shared)


if __name__ == "__main__":
    main()
