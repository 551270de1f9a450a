"""Channel versions: those of LangGraph's own form, made, and stored short in a checkpoint."""

import random
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any


def next_version(current: int | str | None) -> int | str:
    """The version after ``current``, as LangGraph's own savers make it.

    ``"00000000000000000000000000000002.0.8444218515250481"``: 32 digits that count, and a random
    number. They store values by version, and those of two branches from one checkpoint differ. The
    numbers of a thread that has such go on as numbers: the two do not compare.
    """
    if isinstance(current, int):
        return current + 1
    return _text(1 + (0 if current is None else int(current.split(".")[0])), random.random())  # noqa: S311


def shortened(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint without its values, and versions in pairs of numbers: 11 bytes instead of 53."""
    envelope = {**checkpoint}
    envelope.pop("channel_values", None)
    return _with_versions(envelope, _pairs)


def restored(envelope: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`shortened` was given, still without the values."""
    return _with_versions({**envelope}, _texts)


def _with_versions(
    envelope: dict[str, Any], form: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    if (versions := envelope.get("channel_versions")) is not None:
        envelope["channel_versions"] = form(versions)
    if (seen := envelope.get("versions_seen")) is not None:
        envelope["versions_seen"] = {node: form(versions) for node, versions in seen.items()}
    return envelope


def _text(number: int, chance: float) -> str:
    return f"{number:032}.{chance:016}"


def _texts(versions: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _text(*version) if isinstance(version, list) else version
        for name, version in versions.items()
    }


def _pairs(versions: Mapping[str, Any]) -> dict[str, Any]:
    """Versions as two numbers each; as it is, which would not come back to the letter."""
    return {
        name: _pair_of_text(version) if type(version) is str else version
        for name, version in versions.items()
    }


# Most versions of a checkpoint stand in it twice, and in the one before: 0.1 µs instead of 3.
@lru_cache(maxsize=1024)
def _pair_of_text(version: str) -> tuple[int, float] | str:
    number, _, chance = version.partition(".")
    try:
        pair = int(number), float(chance)
    except ValueError:
        return version
    # msgpack has no longer integers.
    return pair if pair[0] < 2**63 and _text(*pair) == version else version
