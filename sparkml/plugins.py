"""One file = one plugin: a plugin package holds plugin modules and nothing else, and the file's name is its name in the YAML.

``load("ingest.sources", "csv")`` imports ``sparkml/ingest/sources/csv.py`` and returns the one `Plugin` subclass defined there.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, PlainSerializer
from pydantic_core import PydanticCustomError

from sparkml.config import Options, suggest
from sparkml.errors import ConfigError


class Plugin:
    """Base of every plugin: typed options in the same file, and the optional packages it needs.

    Attributes
    ----------
    Options
        The plugin's settings model; its fields are the keys allowed beside ``type`` in the YAML.
    requires
        Import name -> extra of sparkml that installs it.
    """

    Options: ClassVar[type[Options]] = Options
    requires: ClassVar[Mapping[str, str]] = {}
    options: Any

    def __init__(self, options: Any = None) -> None:
        self.options = self.Options() if options is None else options

    @classmethod
    def plugin_name(cls) -> str:
        """Return the name that selects this plugin: its file's."""
        return cls.__module__.rpartition(".")[2]


@cache
def names(kind: str) -> tuple[str, ...]:
    """Return the names of all plugins of a kind (a package below ``sparkml``), without importing them."""
    package = importlib.import_module(f"sparkml.{kind}")
    return tuple(sorted(module.name for module in pkgutil.iter_modules(package.__path__)))


@cache
def load(kind: str, name: str) -> type[Plugin]:
    """Return the plugin class of `name`. Raises `ConfigError` for an unknown name or a missing optional package."""
    if name not in names(kind):
        raise ConfigError(f"{kind}: no plugin {name!r}; {suggest(name, names(kind))}")
    module = importlib.import_module(f"sparkml.{kind}.{name}")
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Plugin) and value.__module__ == module.__name__
    ]
    if len(own) != 1:
        raise ConfigError(f"{module.__name__} must define exactly one Plugin class, it defines {len(own)}")
    for package, extra in own[0].requires.items():
        need(package, extra, f"{kind} {name!r}")
    return own[0]


def need(package: str, extra: str, who: str) -> None:
    """Raise `ConfigError` if a package that `who` imports is not installed; `extra` is what installs it."""
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"{who} needs the package {package!r}", hint=f"pip install 'sparkml[{extra}]'")


def _dump(plugin: Plugin, selector: str) -> dict[str, Any]:
    return {selector: plugin.plugin_name(), **plugin.options.model_dump(mode="json", exclude_unset=True)}


def plugged(kind: str, selector: str = "type") -> Any:
    """Return a pydantic field type: ``{type: NAME, ...options}`` in the YAML becomes the plugin, its options validated."""

    def build(value: Any) -> Plugin:
        if isinstance(value, Plugin):
            return value
        if not isinstance(value, Mapping) or selector not in value:
            raise PydanticCustomError(
                "plugin",
                "must be a mapping with the key '{selector}'; {advice}",
                {"selector": selector, "advice": suggest("", names(kind))},
            )
        try:
            plugin = load(kind, str(value[selector]))
        except ConfigError as error:
            raise PydanticCustomError("plugin", "{message}", {"message": str(error), "key": selector}) from None
        return plugin(plugin.Options.model_validate({key: item for key, item in value.items() if key != selector}))

    return Annotated[Any, BeforeValidator(build), PlainSerializer(lambda plugin: _dump(plugin, selector))]
