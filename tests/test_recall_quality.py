"""What recall finds: the turns that answer a question, among the first of its answer."""

from collections.abc import Iterator
from operator import ge, gt

import pytest

from langmem_isolated import IsolatedMemory, LocalRootKey
from tests.conversations import NAMES, Conversation, MiniLM

# Of the answers among the first ten and twenty, what was found when this was written, less 0.01.
BY_WORDS = {
    "assistant": (0.544, 0.636),
    "friends1": (0.403, 0.49),
    "friends2": (0.455, 0.578),
    "friends3": (0.429, 0.531),
}
WITH_MEANING = {
    "assistant": (0.635, 0.731),
    "friends1": (0.463, 0.578),
    "friends2": (0.581, 0.676),
    "friends3": (0.479, 0.595),
}


@pytest.fixture(scope="module")
def memory() -> Iterator[IsolatedMemory]:
    root_key = LocalRootKey(bytes(range(32)))
    with IsolatedMemory("sqlite://", root_key=root_key, plaintext_cache_seconds=300) as memory:
        yield memory


@pytest.mark.parametrize("name", NAMES)
def test_words_find_answers_and_a_models_embeddings_find_more(memory: IsolatedMemory, name: str):
    conversation, scope = Conversation.load(name), memory.scope(user_id=name, module_id="m")
    conversation.put_into(scope)

    by_words = conversation.found(scope, 10, 20)
    with_meaning = conversation.found(scope, 10, 20, embeddings=MiniLM(conversation))

    assert all(map(ge, by_words, BY_WORDS[name])), by_words
    assert all(map(ge, with_meaning, WITH_MEANING[name])), with_meaning
    assert all(map(gt, with_meaning, by_words)), (by_words, with_meaning)
