"""Configs of runs as frozen dataclasses: typed values from files and words, and checks that name what is wrong.

A config derives from `TypedConfig`. Its fields are numbers, words, booleans, tuples ``tuple[x, ...]`` and
``tuple[x, y]`` of such, plain dicts, and dataclasses of all these. What is read from a file starts from defaults, so
each field of it has one.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from .._files import Damaged, read_signed, signed, write_json

ConfigT = TypeVar("ConfigT", bound="TypedConfig")

_INTERVALS = {"[0, 1]": lambda x: 0 <= x <= 1, "[0, 1)": lambda x: 0 <= x < 1, "(0, 1]": lambda x: 0 < x <= 1}


@dataclass(frozen=True)
class TypedConfig:
    """Base of the configs.

    Attributes:
        OP: What its error messages begin with.
        KIND: What its file says it is; None: the file says nothing.
    """

    OP: ClassVar[str] = "training"
    KIND: ClassVar[str | None] = None

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write the config, readable, with its own hash; a file that holds it already stays as it is."""
        path = Path(path)
        with contextlib.suppress(ValueError, TypeError):  # no config yet, or another one
            if type(self).from_json(path) == self:
                return
        kind = {} if self.KIND is None else {"kind": self.KIND}
        write_json(path, signed({**kind, **asdict(self)}))

    @classmethod
    def from_json(cls: type[ConfigT], path: str | os.PathLike[str]) -> ConfigT:
        """Read what `to_json` wrote; a file without the line sha256, since it was edited, is read too.

        Raises:
            ValueError: The file is of another kind, a name in it is unknown, or it is not as it was written.
            TypeError: A value has a wrong type.
        """
        try:
            data, _ = read_signed(Path(path), required=False)
        except Damaged as error:
            hint = "; where you changed it, take out its line sha256" if "does not match" in error.reason else ""
            raise ValueError(f"{cls.OP}: {error}{hint}") from None
        kind = data.pop("kind", None)
        if kind != cls.KIND:
            raise ValueError(
                f"{cls.OP}: {path} must hold the config of a {cls.KIND or 'mlph'} run, got one of {kind or 'mlph'}"
            )
        try:
            return cls().changed(data)
        except (ValueError, TypeError) as error:
            raise type(error)(f"{error} in {path}") from None

    def changed(self: ConfigT, values: Mapping[str, Any]) -> ConfigT:
        """Replace fields by name.

        Raises:
            ValueError: There is no such field, or a value does not suit it.
            TypeError: A value has a wrong type.
        """
        return replace(self, **typed_fields(self.OP, type(self), values))

    def check_words(self, **allowed: Sequence[str]) -> None:
        """Raise ValueError unless each named field is one of its words."""
        for name, words in allowed.items():
            one_of(self.OP, name, getattr(self, name), words)

    def check_positive(self, *names: str) -> None:
        """Raise ValueError unless each named field is positive."""
        for name in names:
            if not getattr(self, name) > 0:
                raise ValueError(f"{self.OP}: {name} must be positive, got {getattr(self, name)}")

    def check_shares(self, interval: str, *names: str) -> None:
        """Raise ValueError unless each named field lies in ``"[0, 1]"``, ``"[0, 1)"`` or ``"(0, 1]"``."""
        for name in names:
            if not _INTERVALS[interval](getattr(self, name)):
                raise ValueError(f"{self.OP}: {name} must be in {interval}, got {getattr(self, name)}")


def one_of(op: str, name: str, value: object, allowed: Sequence[str]) -> None:
    """Raise ValueError unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{op}: {name} must be one of {', '.join(allowed)}, got {value!r}")


def typed_fields(op: str, owner: type, values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return ``values`` as the fields of a dataclass have them: whole numbers as float, lists as tuples.

    Raises:
        ValueError: There is no such field.
        TypeError: A value has a wrong type.
    """
    known = [f.name for f in fields(owner)]
    unknown = [path + name for name in values if name not in known]
    if unknown:
        raise ValueError(f"{op}: setting must be a field of {owner.__name__}, got {', '.join(sorted(unknown))}")
    hints = typing.get_type_hints(owner)
    return {name: _typed(op, path + name, hints[name], value) for name, value in values.items()}


def _typed(op: str, name: str, hint: Any, value: Any) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        kind = typing.get_origin(option) or option
        if kind is tuple and isinstance(value, list | tuple):
            items = typing.get_args(option)
            items = items[:1] * len(value) if items[-1] is Ellipsis else items
            if len(items) == len(value):
                pairs = enumerate(zip(items, value, strict=True))
                return tuple(_typed(op, f"{name}[{i}]", item, each) for i, (item, each) in pairs)
        if is_dataclass(kind) and isinstance(value, Mapping):
            owner: Any = kind
            return owner(**typed_fields(op, owner, value, f"{name}."))
        if kind is float and type(value) is int:
            return float(value)
        if isinstance(value, kind) and isinstance(value, bool) == (kind is bool):
            return value
    raise TypeError(f"{op}: {name} must be {' or '.join(map(_words, options))}, got {value!r}")


def _words(option: Any) -> str:
    if typing.get_origin(option) is tuple:
        items = typing.get_args(option)
        return f"list of {' and '.join(_words(item) for item in items if item is not Ellipsis)}"
    return "None" if option is type(None) else (typing.get_origin(option) or option).__name__


def parse_setting(op: str, text: str) -> tuple[str, Any]:
    """Split ``name=value`` of ``--set``; the value is JSON, or else a word. Nothing is evaluated."""
    name, separator, word = text.partition("=")
    if not separator or not name:
        raise ValueError(f"{op}: --set must be name=value, got {text!r}")
    try:
        value = json.loads(word)
    except ValueError:
        value = word
    return name.strip().replace("-", "_"), tuple(value) if isinstance(value, list) else value


def read_settings(op: str, path: Path) -> dict[str, Any]:
    """Read values by name from a ``.json`` or, on Python 3.11 and later, a ``.toml`` file."""
    parse: Callable[[str], Any] = json.loads
    if path.suffix == ".toml":
        if sys.version_info < (3, 11):
            raise ValueError(f"{op}: config must be JSON on Python 3.10, which reads no TOML, got {path}")
        import tomllib

        parse = tomllib.loads
    elif path.suffix != ".json":
        raise ValueError(f"{op}: config must end in .json or .toml, got {path}")
    try:
        values = parse(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{op}: config must be {path.suffix[1:].upper()}, got {path} with: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{op}: config must hold values by name, got {type(values).__name__}")
    values.pop("sha256", None)  # of the config of a run
    return values
