"""Recall: what is found of the answers in four long conversations, and in how much time.

    python -m benchmarks.recall --json recall.json

Each of 531 questions names the turns that answer it; what counts is the share of them among the
first ten and twenty. Held against rankings that others use: BM25 over words as they are (bm25s),
SQLite's full-text search with Porter's stems, and embeddings alone. Theirs are made beforehand and
not timed; ours reads and opens the sealed messages at every question.
"""

import argparse
import re
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import bm25s
import numpy as np

from benchmarks.harness import Report, Target, in_turn, machine, microseconds
from langmem_isolated import IsolatedMemory, LocalRootKey
from tests.conversations import NAMES, Conversation, MiniLM

ROOT_KEY = LocalRootKey(bytes(32))
LIMITS = (10, 20)
TURNS, MOST_MILLISECONDS = 600, 10.0

Ask = Callable[[str], Sequence[str]]
"""Ids of what is found, the best first."""


def _spoken(conversation: Conversation) -> list[str]:
    return [f"{turn['speaker']}: {turn['text']}" for turn in conversation.turns]


def plain_bm25(conversation: Conversation) -> Ask:
    texts = [re.findall(r"\w+", text.lower()) for text in _spoken(conversation)]
    index = bm25s.BM25(method="lucene")
    index.index(texts, show_progress=False)
    ids = [turn["id"] for turn in conversation.turns]

    def ask(question: str) -> list[str]:
        scores = index.get_scores(re.findall(r"\w+", question.lower()))
        return [ids[number] for number in np.argsort(-scores, kind="stable")]

    return ask


def full_text_search(conversation: Conversation) -> Ask:
    database = sqlite3.connect(":memory:")
    database.execute("CREATE VIRTUAL TABLE turns USING fts5(id UNINDEXED, text, tokenize='porter')")
    pairs = zip((turn["id"] for turn in conversation.turns), _spoken(conversation), strict=True)
    database.executemany("INSERT INTO turns VALUES (?, ?)", pairs)
    asked = "SELECT id FROM turns WHERE turns MATCH ? ORDER BY rank LIMIT 20"

    def ask(question: str) -> list[str]:
        words = " OR ".join(f'"{word}"' for word in re.findall(r"\w+", question))
        return [row[0] for row in database.execute(asked, (words,))]

    return ask


def embeddings_alone(conversation: Conversation) -> Ask:
    model = MiniLM(conversation)
    turns = np.array(model.embed_documents(_spoken(conversation)), dtype=float)
    turns /= np.linalg.norm(turns, axis=1, keepdims=True)
    ids = [turn["id"] for turn in conversation.turns]

    def ask(question: str) -> list[str]:
        return [ids[number] for number in np.argsort(-(turns @ model.embed_query(question)))]

    return ask


def ours(memory: IsolatedMemory, *, with_meaning: bool) -> Callable[[Conversation], Ask]:
    def of(conversation: Conversation) -> Ask:
        scope = memory.scope(user_id=conversation.name, module_id="m")
        if not [*scope.sessions()]:
            conversation.put_into(scope)
        embeddings = MiniLM(conversation) if with_meaning else None

        def ask(question: str) -> list[str]:
            found = scope.recall(question, limit=max(LIMITS), embeddings=embeddings)
            return [one.message_id or "" for one in found]

        return ask

    return of


def found(ask: Ask, conversation: Conversation) -> list[float]:
    """The share of answering turns among the first so many, for each of the limits."""
    shares = [
        [
            len(question.answers.intersection(ids[:limit])) / len(question.answers)
            for limit in LIMITS
        ]
        for question in conversation.questions
        for ids in [ask(question.text)]
    ]
    return [float(share) for share in np.mean(shares, axis=0)]


def measure_quality(report: Report, memory: IsolatedMemory) -> None:
    rankings = {
        "BM25, words as they are": plain_bm25,
        "SQLite's full-text search, Porter": full_text_search,
        "all-MiniLM alone": embeddings_alone,
        "recall, by words": ours(memory, with_meaning=False),
        "recall, with all-MiniLM": ours(memory, with_meaning=True),
    }
    conversations = [Conversation.load(name) for name in NAMES]
    shares = {
        name: np.mean([found(make(one), one) for one in conversations], axis=0)
        for name, make in rankings.items()
    }
    rows = [(name, *map(float, share)) for name, share in shares.items()]
    report.table("share of the answers found", ["", *(f"first {one}" for one in LIMITS)], rows)
    for name, *share in rows:
        report.measured(
            "found", name, **{f"first {n}": s for n, s in zip(LIMITS, share, strict=True)}
        )
    alone = max(
        shares["BM25, words as they are"][0], shares["SQLite's full-text search, Porter"][0]
    )
    by_words, both = shares["recall, by words"][0], shares["recall, with all-MiniLM"][0]
    report.targets += [
        Target("by words, of the best by words", float(by_words / alone), 1.2, at_least=True),
        Target("with all-MiniLM, of words", float(both / by_words), 1.0, at_least=True),
    ]


def measure_time(report: Report, memory: IsolatedMemory, rounds: int) -> None:
    """A question over 600 turns: those of a conversation and half of another's."""
    scope = memory.scope(user_id="long", module_id="m")
    turns = [turn for name in NAMES[:2] for turn in Conversation.load(name).turns][:TURNS]
    for start in range(0, TURNS, 24):
        history = scope.chat_history(str(start))
        history.add_messages([Conversation.message(turn) for turn in turns[start : start + 24]])
    questions = [one.text for one in Conversation.load(NAMES[0]).questions]

    def ask(number: int) -> None:
        scope.recall(questions[number % len(questions)])

    [seconds] = in_turn({"ask": [ask]}, rounds)["ask"]
    milliseconds = microseconds(seconds) / 1e3
    report.measured("time", "recall, by words", turns=TURNS, median_us=milliseconds * 1e3)
    report.targets.append(
        Target(f"a question over {TURNS} turns", milliseconds, MOST_MILLISECONDS, unit="ms")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--json", type=Path, help="write what was measured to this file")
    options = parser.parse_args()
    report = Report("Recall", machine("langchain-core", "numpy", "PyStemmer", "bm25s"))
    with IsolatedMemory("sqlite://", root_key=ROOT_KEY) as memory:
        measure_quality(report, memory)
        measure_time(report, memory, options.rounds)
    report.finish(options.json)


if __name__ == "__main__":
    main()
