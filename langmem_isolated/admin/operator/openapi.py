"""OpenAPI: a description of the JSON beside the pages, made from their table."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import date, datetime, timedelta
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from langmem_isolated.admin.operator.pages import Action, Page

VERSION = "3.1.0"
_PLAIN: dict[Any, dict[str, Any]] = {
    Any: {},
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    type(None): {"type": "null"},
    datetime: {"type": "string", "format": "date-time"},
    date: {"type": "string", "format": "date"},
    timedelta: {"type": "number", "description": "Seconds."},
}
_QUERIES = {
    "users": {
        "project": "The reference of a project, for its users alone.",
        "after": "The digest of the last user of a page, for the next.",
    },
    "audit": {"before": "What `next` of a page says, for the next."},
}
_PARTS = {
    "digest": "A user's digest, as the list of users gives it.",
    "job": "The id of a job.",
}
_ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
_FAILED = {
    "400": "A parameter is not as described.",
    "401": "Nobody who may see it.",
    "404": "Not there, or not any more.",
    "409": "Refused, and why.",
    "503": "The database does not answer.",
}


def described(table: Sequence[Page | Action], version: str) -> dict[str, Any]:
    """The description of all pages' JSON."""
    pages = [one for one in table if isinstance(one, Page)]
    return {
        "openapi": VERSION,
        "info": {"title": "langmem-isolated admin", "version": version},
        "paths": {page.api_path: {"get": _operation(page)} for page in pages},
        "components": {
            "schemas": {"Error": _ERROR},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _operation(page: Page) -> dict[str, Any]:
    responses = {
        code: {"description": what, "content": _content({"$ref": "#/components/schemas/Error"})}
        for code, what in _FAILED.items()
    }
    told = (page.shown.__doc__ or "").strip()
    answer = {"description": told, "content": _content(schema_of(page.shown))}
    return {
        "operationId": page.name,
        "summary": page.title,
        "parameters": [*_parameters(page)],
        "responses": {"200": answer, **responses},
    }


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _parameters(page: Page) -> list[dict[str, Any]]:
    string = {"type": "string"}
    parts = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PARTS[name],
            "schema": string,
        }
        for name in re.findall(r"{(\w+)}", page.path)
    ]
    queries = [
        {"name": name, "in": "query", "description": what, "schema": string}
        for name, what in _QUERIES.get(page.name, {}).items()
    ]
    return parts + queries


def schema_of(kind: Any) -> dict[str, Any]:
    """The JSON schema of a type, as :func:`as_json` writes it."""
    if kind in _PLAIN:
        return _PLAIN[kind]
    if is_dataclass(kind):
        return _of_dataclass(kind)
    origin, parts = get_origin(kind) or kind, get_args(kind)
    if origin is Literal:
        return {"enum": [*parts]}
    if origin in (Union, types.UnionType):
        return {"anyOf": [schema_of(part) for part in parts]}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": schema_of(parts[1])}
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return {"type": "array", "items": schema_of(parts[0])}
    raise TypeError(f"There is no schema of {kind}.")


def _of_dataclass(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    properties = {one.name: schema_of(hints[one.name]) for one in fields(kind)}
    return {"type": "object", "properties": properties, "required": [*properties]}
