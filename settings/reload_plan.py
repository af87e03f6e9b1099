"""What of a changed configuration comes into force at once, and what only when one starts anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Generic, TypeVar

from pydantic import BaseModel

_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Reload(Generic[_Model]):
    """A configuration to put in force, and how it differs from what was asked for."""

    config: _Model
    """The former one, with the new values of those settings that can change."""
    changed: tuple[str, ...]
    """The dotted paths of those settings."""
    needs_restart: tuple[str, ...]
    """The paths of settings whose new values are left out."""


def leaves(model: type[BaseModel]) -> Iterator[str]:
    """Give the dotted path of every setting; one with a list or a table of its own is one."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from (f"{name}.{leaf}" for leaf in leaves(kind))
        else:
            yield name


def plan_reload(old: _Model, new: _Model, reloadable: frozenset[str]) -> Reload[_Model]:
    """Say what to do about `new` while `old` is in force; `reloadable` are paths of `leaves`."""
    different = [path for path in leaves(type(old)) if _at(old, path) != _at(new, path)]
    changed = tuple(path for path in different if path in reloadable)
    needs_restart = tuple(path for path in different if path not in reloadable)
    return Reload(_with(old, new, changed), changed, needs_restart)


def _at(model: BaseModel, path: str) -> object:
    return reduce(getattr, path.split("."), model)


def _with(old: _Model, new: _Model, paths: Iterable[str]) -> _Model:
    """Return `old` with what `new` has at some paths. Both are valid, so nothing is checked."""
    inner: dict[str, list[str]] = {}
    for path in paths:
        name, _, rest = path.partition(".")
        inner.setdefault(name, []).extend([rest] if rest else [])
    taken = {
        name: _with(getattr(old, name), getattr(new, name), rests) if rests else getattr(new, name)
        for name, rests in inner.items()
    }
    return old.model_copy(update=taken)
