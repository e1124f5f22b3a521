"""Typed configs: files, words and what is said about a wrong one."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from c2f_ops.training import Config, Stage
from c2f_ops.training._typed import TypedConfig, parse_setting, read_settings
from c2f_ops.training.falcon import FalconRun
from c2f_ops.training.selfsup import SelfsupConfig


@dataclass(frozen=True)
class Part:
    size: int = 1
    rate: float = 0.5


@dataclass(frozen=True)
class Whole(TypedConfig):
    OP: ClassVar[str] = "whole"
    KIND: ClassVar[str | None] = "whole"

    word: str = "a"
    limit: float | None = None
    flag: bool = False
    sides: tuple[tuple[int, ...], ...] = ()
    names: tuple[str, ...] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        self.check_words(word=("a", "b"))
        if self.limit is not None:
            self.check_positive("limit")
            self.check_shares("(0, 1]", "limit")


def test_values_get_the_types_of_their_fields() -> None:
    whole = Whole().changed({"limit": 1, "sides": [[1, 2], []], "parts": [{"rate": 1}], "names": None})
    assert whole == Whole(limit=1.0, sides=((1, 2), ()), parts=(Part(1, 1.0),))
    assert type(whole.limit) is float and type(whole.parts[0].rate) is float


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ({"word": 3}, TypeError, "whole: word must be str, got 3"),
        ({"flag": 1}, TypeError, "whole: flag must be bool, got 1"),
        ({"limit": True}, TypeError, "whole: limit must be float or None, got True"),
        ({"names": "ab"}, TypeError, "whole: names must be list of str or None, got 'ab'"),
        ({"sides": [1]}, TypeError, r"whole: sides\[0\] must be list of int, got 1"),
        ({"sides": [[1, 2.5]]}, TypeError, r"whole: sides\[0\]\[1\] must be int, got 2.5"),
        ({"parts": [{}, {"size": "x"}]}, TypeError, r"whole: parts\[1\].size must be int, got 'x'"),
        ({"parts": [{"size": True}]}, TypeError, r"whole: parts\[0\].size must be int, got True"),
        ({"parts": [{"no": 1}]}, ValueError, r"whole: setting must be a field of Part, got parts\[0\].no"),
        ({"b": 1, "a": 2}, ValueError, "whole: setting must be a field of Whole, got a, b"),
        ({"word": "c"}, ValueError, "whole: word must be one of a, b, got 'c'"),
        ({"limit": 0}, ValueError, "whole: limit must be positive, got 0.0"),
        ({"limit": 1.5}, ValueError, r"whole: limit must be in \(0, 1\], got 1.5"),
    ],
)
def test_wrong_values_are_named(values, kind, message) -> None:
    with pytest.raises(kind, match=f"^{message}$"):
        Whole().changed(values)


@pytest.mark.parametrize(
    "config", [Config(stages=(Stage("s", epochs=2),)), FalconRun(milestones=(1,)), SelfsupConfig()]
)
def test_files_give_back_the_config_and_say_its_kind(config, tmp_path) -> None:
    path = tmp_path / "config.json"
    config.to_json(path)
    assert type(config).from_json(path) == config
    assert json.loads(path.read_text()).get("kind") == config.KIND
    with pytest.raises(ValueError, match=f"config of a whole run, got one of {config.KIND or 'mlph'}$"):
        Whole.from_json(path)


def test_words_are_never_evaluated() -> None:
    assert parse_setting("op", "backbone=__import__('os')") == ("backbone", "__import__('os')")
    assert parse_setting("op", "min-area=0.5") == ("min_area", 0.5)
    assert parse_setting("op", "lambdas=[1, 2]") == ("lambdas", (1, 2))
    with pytest.raises(ValueError, match="op: --set must be name=value, got 'tau'"):
        parse_setting("op", "tau")


def test_settings_files(tmp_path) -> None:
    (tmp_path / "a.json").write_text('{"word": "b", "parts": [{"size": 2}]}')
    assert Whole().changed(read_settings("op", tmp_path / "a.json")) == Whole("b", parts=(Part(2),))
    (tmp_path / "a.toml").write_text('word = "b"\n[[parts]]\nsize = 2\n')
    if sys.version_info >= (3, 11):
        assert read_settings("op", tmp_path / "a.toml") == read_settings("op", tmp_path / "a.json")
    (tmp_path / "b.json").write_text("[1]")
    with pytest.raises(ValueError, match="op: config must hold values by name, got list"):
        read_settings("op", tmp_path / "b.json")
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(ValueError, match=r"op: config must be JSON, got .*c.json with: Expecting"):
        read_settings("op", tmp_path / "c.json")
    with pytest.raises(ValueError, match=r"op: config must end in .json or .toml, got .*b.yaml"):
        read_settings("op", tmp_path / "b.yaml")
