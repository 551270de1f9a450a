"""Arrays and numbers of NumPy as plain values, and back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

# Stored: they never change.
ARRAY, OBJECTS, MASKED, SCALAR = "a", "o", "m", "s"


def as_plain(value: Any, tell: Callable[[str], None]) -> list[Any] | None:
    """An array or a number of NumPy as a plain list; ``None`` for anything else.

    Imports nothing: who has such a value has NumPy.

    Args:
        value: Of any type.
        tell: Told the type as which another kind of array will come back.

    Returns:
        Element type, shape, order and bytes; or shape and elements where these are objects; or
        the parts of a masked array.
    """
    np = sys.modules.get("numpy")
    if np is None or not isinstance(value, (np.ndarray, np.generic)):
        return None
    if isinstance(value, np.generic):
        # A scalar of objects has no bytes that mean anything elsewhere.
        return None if value.dtype.hasobject else [SCALAR, _described(np, value), value.tobytes()]
    if type(value) is np.ma.MaskedArray:
        return [MASKED, value.data, np.ma.getmaskarray(value), value.fill_value]
    if type(value) is not np.ndarray:
        tell("a numpy.ndarray")
    return _array_as_plain(np, value)


def _array_as_plain(np: Any, array: Any) -> list[Any] | None:
    if array.dtype == object:
        return [OBJECTS, list(array.shape), array.ravel().tolist()]
    if array.dtype.hasobject:
        return None
    order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    return [ARRAY, _described(np, array), list(array.shape), order, array.tobytes(order)]


def _described(np: Any, value: Any) -> Any:
    return np.lib.format.dtype_to_descr(value.dtype)


def from_plain(plain: list[Any]) -> Any:
    """The array or number of which :func:`as_plain` made the list; arrays can be written to.

    Raises:
        ImportError: NumPy is not installed.
        ValueError: The list is none of those.
    """
    import numpy as np  # noqa: PLC0415

    kind, *parts = plain
    if kind == SCALAR:
        described, raw = parts
        return np.frombuffer(raw, np.lib.format.descr_to_dtype(described), 1)[0]
    if kind == ARRAY:
        described, shape, order, raw = parts
        kind_of_element = np.lib.format.descr_to_dtype(described)
        if kind_of_element.hasobject:
            # Its bytes would be taken for addresses of objects.
            raise ValueError("not an array of numbers")
        return np.ndarray(tuple(shape), kind_of_element, bytearray(raw), order=order)
    if kind == MASKED:
        array, mask, fill = parts
        return np.ma.MaskedArray(array, mask=mask, fill_value=fill)
    if kind != OBJECTS:
        raise ValueError("not an array")
    return _of_objects(np, *parts)


def _of_objects(np: Any, shape: list[int], elements: list[Any]) -> Any:
    flat = np.empty(len(elements), object)
    for index, element in enumerate(elements):
        flat[index] = element
    return flat.reshape(tuple(shape))
