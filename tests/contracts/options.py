"""Options for any plugin from its own model: what is required gets the simplest value that its type allows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, get_args, get_origin

from sparkml.errors import ConfigError
from sparkml.plugins import Plugin, load, names


def installed(kind: str) -> list[str]:
    """Return the names of the plugins whose optional packages are here; `make torch` brings those that `make setup` does not."""
    return [name for name in names(kind) if _loads(kind, name)]


def _loads(kind: str, name: str) -> bool:
    try:
        load(kind, name)
    except ConfigError as error:
        if "needs the package" not in str(error):
            raise
        return False
    return True


def guesses(plugin: type[Plugin], columns: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """Yield settings for a plugin, the likeliest first; `columns` are values for fields that name columns."""
    fields = {name: field for name, field in plugin.Options.model_fields.items() if field.is_required()}
    given = columns or {}
    choices = [[given[name]] if name in given else list(_values(field.annotation)) for name, field in fields.items()]
    for chosen in product(*choices):
        found = dict(zip(fields, chosen, strict=True))
        if "path" in plugin.Options.model_fields:
            found["path"] = ["no/such/file"]
        if "learning_rate" in plugin.Options.model_fields:
            found |= {"epochs": 30, "learning_rate": 0.05}  # a net learns little in ten steps
        yield found


def _values(annotation: Any) -> Iterator[Any]:
    kind, inner = get_origin(annotation) or annotation, get_args(annotation)
    if kind is dict:
        yield from ({"a": "string"}, {"made": "number + 1"})
    elif kind is list:
        yield [2, 2] if inner == (int,) else [0.5] if inner == (float,) else ["a"]
    elif inner and all(isinstance(item, str) for item in inner):  # a Literal
        yield inner[0]
    elif kind is str:
        yield from ("made", "LogisticRegression", "LinearRegression")
    else:
        yield {"type": "mlp", "hidden": [4]}  # a nested plugin: the only ones so far are nets
