"""Calls of the wrong shape: a class that is not made directly, and how a method is called."""

from collections.abc import Callable
from functools import wraps
from inspect import Parameter, isfunction, signature, unwrap
from typing import Any, NoReturn, TypeVar, cast

from langmem_isolated._runtime.arguments import kind_of

T = TypeVar("T", bound=type)
F = TypeVar("F", bound=Callable[..., Any])

ONE_SCOPE = "memory.scope(user_id=…, module_id=…)"
"""What makes everything that belongs to one scope, for messages."""

# What a default is shown as, where its text would hide the rest of the call.
_LONGEST_DEFAULT = 20


def made_by(*calls: str, first: Any = object, without: tuple[str, ...] = ()) -> Callable[[T], T]:
    """A class decorator: who calls the class as others of its kind are called learns what to call.

    Costs nothing where the class is made as it is meant to be: only a call that did not fit is
    looked at.

    Args:
        calls: What makes one.
        first: Of which type its first argument is.
        without: Class methods of others of its kind that name no scope; refused in the same words.
    """

    def decorated(cls: T) -> T:
        init: Callable[..., None] = unwrap(cls.__init__)  # type: ignore[misc]

        @wraps(init)
        def checked(self: Any, *args: Any, **kwargs: Any) -> None:
            is_ours = not args or isinstance(args[0], first)
            try:
                if is_ours:
                    init(self, *args, **kwargs)
            except TypeError as error:
                if not _is_of_shape(error):
                    raise
                is_ours = False
            if not is_ours:
                _refuse(cls.__name__, calls, args, kwargs)

        cls.__init__ = checked  # type: ignore[misc]
        for name in without:
            setattr(cls, name, classmethod(_refusing(f"{cls.__name__}.{name}", calls)))
        return cls

    return decorated


def _refusing(name: str, calls: tuple[str, ...]) -> Callable[..., NoReturn]:
    def refusing(_: type, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: it would name no scope.

        Raises:
            TypeError: Always; the message has the line to write instead.
        """
        _refuse(name, calls, args, kwargs)

    return refusing


def _refuse(
    name: str, calls: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> NoReturn:
    given = ", ".join([*map(kind_of, args), *(f"{key}=" for key in kwargs)])
    raise TypeError(
        f"{name} was called with ({given}), which names no scope: nothing was opened. One is made "
        f"by {', or by '.join(calls)}, where memory = IsolatedMemory(url)."
    )


def explains_calls(cls: T) -> T:
    """A class decorator: a call with wrong names or numbers of arguments is told the right ones."""
    for name, member in [*vars(cls).items()]:
        if isfunction(member) and (name in ("__init__", "__call__") or not name.startswith("_")):
            shown = {"__init__": cls.__name__, "__call__": cls.__name__.lower()}.get(name, name)
            setattr(cls, name, _explained(shown, member))
    return cls


def explains_call(function: F) -> F:
    """The same for one method, where others of its class are called too often to be wrapped."""
    return cast("F", _explained(function.__name__, function))


def _explained(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    # What has to be awaited stays what inspection finds it to be; its twin explains.
    if function.__code__.co_flags & _AWAITED:
        return function

    depth = _wrappers_of(function)

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            if not _is_of_shape(error, depth):
                raise
            told = f"{error}. It is called as {name}{_shape_of(function)}. Nothing was done."
        finally:
            # Error reporters print the variables of every frame.
            del args, kwargs
        raise TypeError(told)

    return checked


# CO_COROUTINE, CO_ASYNC_GENERATOR and CO_GENERATOR, as `inspect` has them.
_AWAITED = 0x80 | 0x200 | 0x20


def _is_of_shape(error: TypeError, depth: int = 0) -> bool:
    """Whether a call of ours itself failed: then no frame was entered below but wrappers'."""
    frame = error.__traceback__
    for _ in range(depth):
        frame = frame and frame.tb_next
    return frame is not None and frame.tb_next is None


def _wrappers_of(function: Callable[..., Any]) -> int:
    depth = 0
    while hasattr(function, "__wrapped__"):
        function, depth = function.__wrapped__, depth + 1
    return depth


def _shape_of(function: Callable[..., Any]) -> str:
    shape = signature(function)
    named = [*shape.parameters.values()][1:]
    parameters = [_bare(one) for one in named if one.kind is not Parameter.VAR_POSITIONAL]
    return str(shape.replace(parameters=parameters, return_annotation=Parameter.empty))


class _Long:
    def __repr__(self) -> str:
        return "…"


def _bare(parameter: Parameter) -> Parameter:
    default = parameter.default
    if default is not Parameter.empty and len(repr(default)) > _LONGEST_DEFAULT:
        default = _Long()
    return parameter.replace(annotation=Parameter.empty, default=default)
