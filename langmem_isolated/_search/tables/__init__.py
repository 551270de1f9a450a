"""Tables of words by language, read once."""

from functools import cache
from importlib.resources import files


def lines(name: str) -> list[str]:
    """The lines of a table, without its comments."""
    text = files(__package__).joinpath(name).read_text("utf-8")
    return [line for line in text.splitlines() if not line.startswith("#")]


@cache
def listed(name: str) -> dict[str, frozenset[str]]:
    """The words of a table of which each line is a name, a colon and words."""
    pairs = (line.split(": ", 1) for line in lines(name))
    return {name: frozenset(words.split()) for name, words in pairs}
