"""Config keys: under which names a run's config holds a scope, read and written."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from langmem_isolated.errors import ScopeError
from langmem_isolated.scope import Scope, checked_id

Configurable = Mapping[str, Any]

_HALF_A_SCOPE = (
    "This call names a scope only in part: {missing} is missing beside {given}. Give both in "
    "config['configurable'], or use the bound form, memory.scope(…).bind(graph). Where {given} is "
    "the application's own, name other keys: IsolatedMemory(config_keys=…)."
)


class ConfigKeys(NamedTuple):
    """Under which names a `configurable` holds a scope's parts."""

    user_id: str = "user_id"
    module_id: str = "module_id"
    project_id: str = "project_id"

    @classmethod
    def of(cls, names: Mapping[str, str] | None) -> "ConfigKeys":
        """The names that an application gives, the others as they are.

        Raises:
            TypeError: ``names`` is no mapping, or has a key that is no part of a scope.
            ScopeError: A name is malformed, or two parts have the same.
        """
        given = {} if names is None else names
        if not isinstance(given, Mapping) or not set(given) <= set(cls._fields):
            raise TypeError(
                f"config_keys must be a dict with keys among {', '.join(cls._fields)}, got "
                f"{type(given).__name__}."
            )
        keys = cls(**{part: checked_id("a config key", name) for part, name in given.items()})
        if len(set(keys)) < len(keys):
            raise ScopeError("config_keys must give each part of a scope a name of its own.")
        return keys

    def parts(self, configurable: Configurable) -> dict[str, Any]:
        """What a `configurable` names of a scope, by part."""
        return {
            part: configurable[name]
            for part, name in zip(self._fields, self, strict=True)
            if name in configurable
        }

    def naming(self, scope: Scope) -> dict[str, str]:
        """What a config must hold so that it names ``scope`` again."""
        keys = {self.user_id: scope.user_id, self.module_id: scope.module_id}
        if scope.project_id == "default":
            return keys
        return {**keys, self.project_id: scope.project_id}

    def scope(self, parts: dict[str, Any]) -> Scope:
        """The scope that ``parts`` make.

        Raises:
            ScopeError: A part is missing or malformed.
        """
        missing = [name for name in ("user_id", "module_id") if name not in parts]
        if missing:
            given = ", ".join(getattr(self, name) for name in parts)
            text = _HALF_A_SCOPE.format(missing=getattr(self, missing[0]), given=given)
            raise ScopeError(text)
        return Scope(**parts)
