"""Reads a configuration into a pydantic model: a TOML file, overlaid by environment variables.

``PREFIX__SECTION__KEY=value`` sets ``section.key``; a number names an item of a list
(``PREFIX__HOSTS__0__NAME``). Values are taken as text, which pydantic turns into what the setting
wants; one that begins with ``[`` or ``{`` is read as TOML. The environment wins.

No value ever appears in an error: it could be a secret.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

_Model = TypeVar("_Model", bound=BaseModel)
_Path = tuple[str | int, ...]

_SEPARATOR = "__"
max_config_bytes = 1 << 20
max_secret_bytes = 4_096
max_list_items = 1_024
max_shown_characters = 80


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: the setting's dotted path (or empty) and a sentence."""

    path: str
    message: str


class ConfigError(Exception):
    """The configuration cannot be used; ``str()`` names the file and lists every problem."""

    def __init__(self, source: Path | None, problems: tuple[Problem, ...]) -> None:
        self.source = source
        self.problems = problems
        name = "the environment (no file given)" if source is None else str(source)
        lines = [
            _printable(
                f"  {problem.path}: {problem.message}" if problem.path else f"  {problem.message}"
            )
            for problem in problems
        ]
        super().__init__("\n".join([f"The configuration in {name} cannot be used:", *lines]))

    @property
    def why(self) -> str:
        """What is wrong, in one line and without the file's name."""
        return _printable("; ".join(problem.message for problem in self.problems))


def load_toml(
    path: Path | None,
    model: type[_Model],
    env_prefix: str,
    *,
    environ: Mapping[str, str] | None = None,
) -> _Model:
    """Load `model` from the file at `path` (None: no file) and from `environ` (the process's).

    `env_prefix` is written without the separator, as in ``MOONHOST_AGENT``. Raises `ConfigError`.
    """
    tree = {} if path is None else _read(path)
    variables = os.environ if environ is None else environ
    problems: list[Problem] = []
    origins: dict[_Path, str] = {}
    for name in sorted(variables):
        if name.startswith(env_prefix + _SEPARATOR):
            keys = _keys(name[len(env_prefix + _SEPARATOR) :])
            message = _overlay(tree, keys, variables[name])
            if message:
                problems.append(Problem(name, message))
            origins[keys] = name
    try:
        configuration = model.model_validate(tree)
    except ValidationError as error:
        problems.extend(_problems(error, origins))
    if problems:
        raise ConfigError(path, tuple(problems))
    return configuration


def read_secret(path: Path) -> str:
    """Read a one-line secret (a token) from a file that others cannot read; `ConfigError` if not.

    Files that only root or the group can read pass, as container platforms mount them that way.
    """
    try:
        mode = path.stat().st_mode
        with path.open("rb") as file:
            content = file.read(max_secret_bytes + 1)
    except OSError as error:
        raise _failure(path, f"it cannot be read: {error.strerror}") from error
    if stat.S_IMODE(mode) & 0o007:
        raise _failure(path, f"everybody can read this secret; run: chmod 600 {path}")
    if len(content) > max_secret_bytes:
        raise _failure(path, f"a secret has {max_secret_bytes} bytes at most")
    try:
        secret = content.decode("ascii").strip()
    except UnicodeDecodeError:
        secret = ""
    if not secret.isprintable() or not secret:
        raise _failure(path, "a secret is one line of plain ASCII text")
    return secret


def _failure(path: Path, message: str) -> ConfigError:
    return ConfigError(path, (Problem("", message),))


def _read(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            content = file.read(max_config_bytes + 1)
    except OSError as error:
        raise _failure(path, f"the file cannot be read: {error.strerror}") from error
    if len(content) > max_config_bytes:
        raise _failure(path, f"the file is larger than {max_config_bytes} bytes")
    try:
        return _toml(content.decode())
    except UnicodeDecodeError:
        raise _failure(path, "the file is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        # Says what kind of thing is wrong and on which line, not what stands there.
        raise _failure(path, f"not valid TOML: {error}") from None


def _toml(text: str) -> dict[str, object]:
    """Parse TOML; TOMLDecodeError also for the limits of Python that tomllib runs into."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise tomllib.TOMLDecodeError("lists or tables are nested too deeply") from None
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:
        raise tomllib.TOMLDecodeError("a number has too many digits") from None


def _keys(name: str) -> _Path:
    return tuple(_key(part) for part in name.split(_SEPARATOR))


def _key(part: str) -> str | int:
    # A longer number is no item's: every list is shorter.
    is_index = part.isdecimal() and len(part) <= len(str(max_list_items))
    return int(part) if is_index else part.lower()


class _NoSuchPlace(Exception):
    """A variable names a setting inside something that has none."""


def _overlay(tree: dict[str, object], keys: _Path, text: str) -> str | None:
    """Put a variable's value into `tree`; give what is wrong with the variable, if anything."""
    node: object = tree
    try:
        value = _value(text)
        for key, following in pairwise(keys):
            fresh: object = [] if isinstance(following, int) else {}
            node = _place(node, key, fresh, replace=False)
        _place(node, keys[-1], value, replace=True)
    except tomllib.TOMLDecodeError:
        return "the value begins like a TOML list or table but is not one"
    except _NoSuchPlace as error:
        return str(error)
    return None


def _place(node: object, key: str | int, value: object, *, replace: bool) -> object:
    """Give what `node` has at `key`, after putting `value` there if that is missing."""
    if isinstance(node, dict):
        if replace or str(key) not in node:
            node[str(key)] = value
        return node[str(key)]
    if not isinstance(node, list) or not isinstance(key, int):
        raise _NoSuchPlace("there is no such place among the settings of the file")
    if key > len(node) or key >= max_list_items:
        raise _NoSuchPlace(f"the list has {len(node)} items: the next number is {len(node)}")
    if key == len(node):
        node.append(value)
    elif replace:
        node[key] = value
    return node[key]


def _value(text: str) -> object:
    if text.lstrip()[:1] in ("[", "{"):
        return _toml(f"value = {text}")["value"]
    return text


def _problems(error: ValidationError, origins: Mapping[_Path, str]) -> list[Problem]:
    problems = []
    for entry in error.errors(include_input=False, include_context=False, include_url=False):
        if entry["type"] == "default_factory_not_called":
            continue  # a default that would follow from a setting that is told of anyway
        path = entry["loc"]
        dotted = ".".join(_printable(str(part)[:max_shown_characters]) for part in path)
        origin = _origin(path, origins)
        where = f"{dotted} (from {origin})" if origin else dotted
        message = entry["msg"]
        if entry["type"] == "extra_forbidden":
            message = "there is no such setting"
        elif entry["type"] == "missing":
            message = "this setting is required"
        problems.append(Problem(where, message.removeprefix("Value error, ")))
    return problems


def _origin(path: _Path, origins: Mapping[_Path, str]) -> str | None:
    """Give the variable that set what is at `path`, a part of it, or what it is a part of."""
    for keys, name in origins.items():
        shorter = min(len(keys), len(path))
        if shorter and keys[:shorter] == path[:shorter]:
            return name
    return None


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
