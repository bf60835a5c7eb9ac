"""Layered YAML settings: which layer set what, strict models, secrets as references.

Layers, later wins: ``conf/base.yaml`` < ``conf/env/NAME.yaml`` < pipeline file < environment variables
(``SPARKML__TRAIN__SEED=3``) < ``--set train.seed=3``. The merge keeps the origin of every leaf, so that an error can name
the file and the line, and ``sparkml config show`` can print them.
"""

from __future__ import annotations

import atexit
import difflib
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from sparkml.errors import ConfigError

ENV_PREFIX = "SPARKML__"
_REFERENCE = re.compile(r"\$\{(env|file):([^}]+)\}")
_SECRET_KEY = re.compile(
    r"(pass(word|wd)?|secret|token|credential|(api|access|private|account)[_.-]?key)([._-]|$)", re.IGNORECASE
)
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,78}[A-Za-z0-9])?")


def suggest(word: str, allowed: Iterable[str]) -> str:
    """Return ``did you mean 'x'?``-style text for a wrong word, empty when nothing is close."""
    choices = sorted(allowed)
    folded = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(word.lower(), folded, n=1, cutoff=0.6)
    listed = ", ".join(choices[:40]) + (f", ... ({len(choices)} in all)" if len(choices) > 40 else "")
    return (f"did you mean '{folded[close[0]]}'? " if close else "") + f"allowed: {listed}"


def explain(error: ValidationError, spell: Callable[[str], str] = str) -> str:
    """Return every problem of a settings model on one line; `spell` turns a field's name into the one that the user knows."""
    problems = error.errors(include_url=False)
    return "; ".join(f"{spell('.'.join(map(str, item['loc'])))} = {item['input']!r}: {item['msg']}" for item in problems)


def check_name(value: str, what: str = "name") -> str:
    """Return `value` if it is safe as a path segment on every store, raise `ConfigError` otherwise."""
    if not _NAME.fullmatch(value) or ".." in value:
        raise ConfigError(
            f"{what} {value!r} is not allowed: use 1-80 ASCII letters, digits, '_', '-' and single '.', "
            "starting and ending with a letter or digit"
        )
    return value


def _pydantic_name(value: str) -> str:
    try:
        return check_name(value)
    except ConfigError as error:
        raise PydanticCustomError("name", "{message}", {"message": error.message}) from None


Name = Annotated[str, AfterValidator(_pydantic_name)]


class Options(BaseModel):
    """Base of every settings model: unknown keys are errors that name the allowed ones."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        allowed = {info.alias or name for name, info in cls.model_fields.items()} | set(cls.model_fields)
        for key in value:
            if key not in allowed:
                shown = {info.alias or name for name, info in cls.model_fields.items()}
                raise PydanticCustomError(
                    "unknown_key", "unknown key; {advice}", {"key": str(key), "advice": suggest(str(key), shown)}
                )
        return value


# --- layers -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Origin:
    """Where a value was set: a file and line, an environment variable, or ``--set``."""

    layer: str
    line: int | None = None

    def __str__(self) -> str:
        return self.layer if self.line is None else f"{self.layer}:{self.line}"


@dataclass
class Layered:
    """Merged settings and the origin of every leaf and section, keyed by dotted path."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)

    def add(self, values: Mapping[str, Any], origins: Mapping[str, Origin]) -> None:
        """Merge a layer on top: mappings merge key by key, anything else (lists too) replaces.

        A section that names another plugin (a changed ``type`` or ``trainer``) starts anew: options of one plugin mean
        nothing to another.
        """
        self.values = _merge(self.values, values)
        self.origins.update(origins)

    def origin(self, path: str) -> Origin | None:
        """Return the origin of `path` or of its closest recorded ancestor."""
        while path:
            if path in self.origins:
                return self.origins[path]
            path = path.rpartition(".")[0]
        return None

    def leaves(self) -> list[tuple[str, Any]]:
        """Return every setting as (dotted path, value), in the order of the files."""

        def below(value: Any, path: str) -> list[tuple[str, Any]]:
            if isinstance(value, Mapping) and value:
                return [leaf for key, item in value.items() for leaf in below(item, f"{path}.{key}" if path else str(key))]
            return [(path, value)]

        return below(self.values, "")


def _merge(low: Any, high: Any) -> Any:
    if not (isinstance(low, Mapping) and isinstance(high, Mapping)):
        return high
    for selector in ("type", "trainer"):
        if selector in low and selector in high and low[selector] != high[selector]:
            return dict(high)
    return {
        key: _merge(low[key], high[key]) if key in low and key in high else high.get(key, low.get(key)) for key in {**low, **high}
    }


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, Origin]]:
    """Read one settings file; return its values and the line of every key. Raises `ConfigError` naming file and line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text) or {}
    except OSError as error:
        raise ConfigError(f"cannot read the settings file {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of settings, it holds a {type(values).__name__}")
    origins: dict[str, Origin] = {}
    _note_lines(node, "", str(path), origins)
    return values, origins


def _note_lines(node: yaml.Node | None, prefix: str, layer: str, into: dict[str, Origin]) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                raise ConfigError(f"{layer}:{key.start_mark.line + 1}: key '{name}' stands twice in the same section")
            seen.add(name)
            path = f"{prefix}.{name}" if prefix else name
            into[path] = Origin(layer, key.start_mark.line + 1)
            _note_lines(value, path, layer, into)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            path = f"{prefix}.{index}"
            into[path] = Origin(layer, value.start_mark.line + 1)
            _note_lines(value, path, layer, into)


def _parts(path: str) -> list[str]:
    """Split a path; a setting of Spark's is one key, with dots in it."""
    head, found, key = path.partition("spark.conf.")
    return ["spark", "conf", key] if found and not head else path.split(".")


def _nested(path: str, value: Any) -> dict[str, Any]:
    for part in reversed(_parts(path)):
        value = {part: value}
    return dict(value)


def parse_assignment(text: str) -> tuple[str, Any]:
    """Parse ``key.path=value`` of ``--set``; the value is YAML (``true``, ``3``, ``[a, b]``)."""
    path, separator, raw = text.partition("=")
    if not separator or not path.strip():
        raise ConfigError(f"--set {text!r} is not of the form key.path=value", hint="--set train.seed=3")
    try:
        return path.strip(), yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {path}: {raw!r} is not a YAML value: {error}") from None


def _match_case(path: str, values: Mapping[str, Any]) -> str:
    """Environment variables are upper case; find the settings' own spelling of each part (``NUMTREES`` -> ``numTrees``)."""
    parts: list[str] = []
    here: Any = values
    for part in _parts(path):
        known = {str(key).lower(): str(key) for key in here} if isinstance(here, Mapping) else {}
        parts.append(known.get(part, part))
        here = here.get(parts[-1]) if isinstance(here, Mapping) else None
    return ".".join(parts)


def conf_dir() -> Path:
    """Return the settings folder: ``$SPARKML_CONF_DIR``, else ``./conf``, else the one shipped with the package."""
    chosen = os.environ.get("SPARKML_CONF_DIR")
    places = [Path(chosen)] if chosen else [Path("conf"), _shipped_conf(), Path(__file__).parents[1] / "conf"]
    for place in places:
        if (place / "base.yaml").is_file():
            return place
    raise ConfigError(
        f"no base.yaml in {', '.join(map(str, places))}", hint="set SPARKML_CONF_DIR to the folder that holds base.yaml"
    )


@cache
def _shipped_conf() -> Path:
    """The settings inside the package; copied out of the archive when the package was imported from one."""
    shipped = files("sparkml").joinpath("conf")
    if isinstance(shipped, Path) or not shipped.is_dir():
        return Path(str(shipped))
    folder = tempfile.TemporaryDirectory(prefix="sparkml-conf-")
    atexit.register(folder.cleanup)
    _copy_out(shipped, Path(folder.name))
    return Path(folder.name)


def _copy_out(source: Traversable, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for item in source.iterdir():
        if item.is_dir():
            _copy_out(item, target / item.name)
        else:
            (target / item.name).write_bytes(item.read_bytes())


def find_pipeline(name: str) -> Path:
    """Return the pipeline file for a path or a bare name (``digits`` -> ``conf/pipelines/digits.yaml``)."""
    path = Path(name)
    if path.is_file():
        return path
    folder = conf_dir() / "pipelines"
    known = sorted(file.stem for file in folder.glob("*.yaml"))
    if path.suffix not in {".yaml", ".yml"} and name in known:
        return folder / f"{name}.yaml"
    raise ConfigError(f"no pipeline {name!r}: no such file, and {suggest(path.stem, known)}")


def load_layers(pipeline: Path | None, env: str | None, assignments: Iterable[str] = ()) -> Layered:
    """Read and merge all layers. No validation beyond YAML and the rule that secrets are references."""
    conf = conf_dir()
    layered = Layered()
    layered.add(*read_yaml(conf / "base.yaml"))
    if env is not None:
        known = sorted(file.stem for file in (conf / "env").glob("*.yaml"))
        if env not in known:
            raise ConfigError(f"--env {env!r}: no such file in {conf / 'env'}; {suggest(env, known)}")
        layered.add(*read_yaml(conf / "env" / f"{env}.yaml"))
    if pipeline is not None:
        layered.add(*read_yaml(pipeline))
    for name, raw in sorted(os.environ.items()):
        if name.startswith(ENV_PREFIX):
            path = _match_case(name[len(ENV_PREFIX) :].lower().replace("__", "."), layered.values)
            try:
                value = yaml.safe_load(raw)
            except yaml.YAMLError as error:
                raise ConfigError(f"the environment variable {name} is not a YAML value: {error}") from None
            layered.add(_nested(path, value), {path: Origin(f"environment variable {name}")})
    for text in assignments:
        path, value = parse_assignment(text)
        layered.add(_nested(path, value), {path: Origin("--set")})
    _refuse_literal_secrets(layered.values, "", layered)
    return layered


# --- validation -------------------------------------------------------------------------------------------------------

Model = TypeVar("Model", bound=BaseModel)


def validate(model: type[Model], layered: Layered) -> Model:
    """Build `model` from merged layers, or raise one `ConfigError` that lists every problem with its origin."""
    try:
        return model.model_validate(layered.values)
    except ValidationError as error:
        lines = [_explain(problem, layered) for problem in error.errors(include_url=False)]
        raise ConfigError("wrong settings:\n" + "\n".join(f"  {line}" for line in dict.fromkeys(lines))) from None


def _explain(problem: ErrorDetails, layered: Layered) -> str:
    context: dict[str, Any] = dict(problem.get("ctx") or {})
    path = ".".join(str(part) for part in problem["loc"] if not (isinstance(part, str) and part.startswith("function-")))
    value: Any = problem["input"]
    if "key" in context:  # a problem with a key rather than with the value of the section that holds it
        path = f"{path}.{context['key']}" if path else context["key"]
        value = value.get(context["key"]) if isinstance(value, Mapping) else value
    origin = layered.origin(path)
    shown = "" if problem["type"] == "missing" else f" = {_shorten(value)}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] in {"literal_error", "enum"}:
        allowed = re.findall(r"'([^']+)'", str(context.get("expected", "")))
        message = f"not one of the choices; {suggest(str(value), allowed)}"
    elif problem["type"] == "missing":
        message = "is required and not set"
    return f"{origin or 'settings'}: {path}{shown}: {message}"


def _shorten(value: Any) -> str:
    text = redact(repr(value))
    return text if len(text) <= 80 else f"{text[:77]}..."


# --- secrets ----------------------------------------------------------------------------------------------------------

_resolved_secrets: set[str] = set()


def looks_secret(key: str) -> bool:
    """Whether a setting's name says that its value is a secret."""
    return _SECRET_KEY.search(key) is not None


def _refuse_literal_secrets(values: Any, path: str, layered: Layered) -> None:
    if isinstance(values, Mapping):
        for key, value in values.items():
            _refuse_literal_secrets(value, f"{path}.{key}" if path else str(key), layered)
    elif (
        values not in (None, "")
        and not isinstance(values, bool)
        and looks_secret(path.rpartition(".conf.")[2])
        and not _REFERENCE.fullmatch(str(values))
    ):
        raise ConfigError(
            f"{layered.origin(path) or 'settings'}: {path}: a secret stands in the settings (not shown)",
            hint="keep it in an environment variable or a file and write ${env:NAME} or ${file:PATH} here",
        )


def resolve_reference(text: str) -> str:
    """Replace ``${env:NAME}`` and ``${file:PATH}`` by their values; call it at the point of use, `redact` hides them later."""

    def lookup(match: re.Match[str]) -> str:
        kind, name = match.groups()
        try:
            value = os.environ[name] if kind == "env" else Path(name).read_text(encoding="utf-8").strip()
        except KeyError:
            raise ConfigError(f"{match.group(0)}: the environment variable {name} is not set") from None
        except OSError as error:
            raise ConfigError(f"{match.group(0)}: cannot read {name}: {error.strerror}") from None
        if value:
            _resolved_secrets.add(value)
        return value

    return _REFERENCE.sub(lookup, text)


def references(value: Any) -> Iterator[tuple[str, str]]:
    """Yield what a setting refers to: ``("env", NAME)`` and ``("file", PATH)``; `value` is one or a list of any depth."""
    if isinstance(value, list):
        for item in value:
            yield from references(item)
    elif isinstance(value, Mapping):
        yield from references(list(value.values()))
    elif isinstance(value, str):
        yield from ((kind, name) for kind, name in _REFERENCE.findall(value))


def redact(text: str) -> str:
    """Return `text` with every secret that was resolved in this process replaced by ``***``."""
    for secret in _resolved_secrets:
        text = text.replace(secret, "***")
    return text
