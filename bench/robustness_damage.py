"""Damage to the files of a run: one file each time, then the run is resumed to its end."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from c2f_ops._files import MODEL, OPTIMIZER, STATE, checkpoint_folders, signed
from c2f_ops.hierarchy import Hierarchy
from c2f_ops.training import Interrupted, run, train

from .robustness_kills import digest, in_child, tiny_config

FILES = (MODEL, OPTIMIZER, STATE, "config.json", "hierarchy.json")
STOP = 8  # steps after which the run is stopped: in its second stage
#: Other JSON than was written; the last two, like a state.json, even with the right hash.
WRONG_JSON: tuple[Any, ...] = ([], "text", None, 3, {}, {"files": []}, {"step": "x", "files": {MODEL: 1}})


def truncate(path: Path, rng: random.Random, _: Path) -> None:
    """Cut it off somewhere."""
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(1, len(data))])


def flip(path: Path, rng: random.Random, _: Path) -> None:
    """Flip one bit."""
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def zero(path: Path, rng: random.Random, _: Path) -> None:
    """Lose a block, as file systems do."""
    data = bytearray(path.read_bytes())
    size = max(1, len(data) // 4)
    start = rng.randrange(len(data) - size)
    data[start : start + size] = bytes(size)
    path.write_bytes(data)


def empty(path: Path, *_: Any) -> None:
    """Leave nothing in it."""
    path.write_bytes(b"")


def delete(path: Path, *_: Any) -> None:
    """Take it away."""
    path.unlink()


def swap(path: Path, rng: random.Random, other: Path) -> None:
    """Put the same file of the checkpoint before, or of another run, in its place."""
    folders = checkpoint_folders(path.parent.parent.parent) if path.parent.name.startswith("step-") else []
    theirs = checkpoint_folders(other)[0] / path.name if folders else other / path.name
    shutil.copy(folders[1] / path.name if folders and rng.random() < 0.5 else theirs, path)


def retype(path: Path, rng: random.Random, _: Path) -> None:
    """Change types: other JSON, or in safetensors another dtype or shape in the header."""
    data = path.read_bytes()
    if path.suffix == ".safetensors":
        old, new = rng.choice([(b'"F32"', b'"I32"'), (b'"shape":[', b'"shape":{'), (b"data_offsets", b"data_offsetz")])
        path.write_bytes(data.replace(old, new, 1))
        return
    kind = rng.randrange(len(WRONG_JSON) + 3)
    if kind < len(WRONG_JSON):
        wrong = WRONG_JSON[kind]
        path.write_text(json.dumps(signed(wrong) if isinstance(wrong, dict) and wrong else wrong))
    elif kind == len(WRONG_JSON):
        path.write_text("[" * 100_000)  # deeper than a parser goes
    else:
        content = json.loads(data)
        content[rng.choice(sorted(content))] = rng.choice([[], {}, "x", None, 0.5])
        path.write_text(json.dumps(content))


def replace(path: Path, rng: random.Random, _: Path) -> None:
    """Put something else in its place: a pickle, noise, a huge header, a folder."""
    kind = rng.randrange(4)
    if kind == 3:
        path.unlink()
        path.mkdir()
    else:
        pickle = b"cposix\nsystem\n(S'exit 1'\ntR."
        path.write_bytes((pickle, rng.randbytes(500), (1 << 62).to_bytes(8, "little") + path.read_bytes())[kind])


WAYS = {
    "cut off": truncate, "one bit flipped": flip, "a block of zeros": zero, "emptied": empty, "deleted": delete,
    "swapped with another": swap, "wrong types": retype, "replaced by something else": replace,
}  # fmt: skip


def prepare(folder: Path) -> str:
    """Make the run to damage, stopped in the middle, and another one to swap with; return the hash of its end."""

    @contextlib.contextmanager
    def signals() -> Any:
        left = iter(range(STOP, 0, -1))
        yield lambda: next(left, 0) == 1

    def stopped(name: str, **changes: Any) -> None:
        run.stop_signals = signals
        with contextlib.suppress(Interrupted):
            train(tiny_config().changed(changes), folder / name)

    def other() -> None:
        stopped("other", seed=1)
        tree = Hierarchy.from_json(folder / "other" / "hierarchy.json")
        names = [[f"other {name}" for name in level] for level in tree.names]
        Hierarchy(tree.levels, names, tree.parents).to_json(folder / "other" / "hierarchy.json")

    log = folder / "log"
    for job in (lambda: stopped("base"), other, lambda: training_only(folder / "whole", resume=False)):
        if in_child(job, log):
            raise RuntimeError(log.read_text())
    assert len(checkpoint_folders(folder / "base")) == 2
    return digest(folder / "whole")


def training_only(folder: Path, *, resume: bool) -> None:
    """Train to the end; what follows reads no file that could be damaged."""
    run.finish = lambda *_: {}
    train(tiny_config(), folder, resume=resume)


def run_damage(folder: Path, count: int, seed: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Damage ``count`` files, as evenly over files and ways as goes; return a record each."""
    records, wanted = [], prepare(folder)
    cases = [(name, way) for name in FILES for way in WAYS]
    random.Random(seed).shuffle(cases)
    for number in range(count):
        name, way = cases[number % len(cases)]
        victim, told = folder / "victim", folder / "told.json"
        shutil.rmtree(victim, ignore_errors=True)
        shutil.copytree(folder / "base", victim)
        path = (checkpoint_folders(victim)[0] if name in (MODEL, OPTIMIZER, STATE) else victim) / name
        before = path.read_bytes()
        WAYS[way](path, random.Random(f"{seed}/{number}"), folder / "other")
        changed = not path.is_file() or path.read_bytes() != before

        def work(victim: Path = victim, told: Path = told) -> None:
            error = None
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                try:
                    training_only(victim, resume=True)
                except Exception as caught:
                    error = f"{type(caught).__name__}: {caught}"
            notes = [str(w.message) for w in seen if "damaged" in str(w.message)]
            told.write_text(json.dumps({"error": error, "notes": notes}))

        if in_child(work, folder / "log"):
            raise RuntimeError((folder / "log").read_text())
        outcome = {"file": name, "way": way, "changed": changed, **json.loads(told.read_text())}
        outcome["outcome"] = judge(outcome, name, outcome["error"] is None and digest(victim) == wanted)
        records.append(outcome)
        if outcome["outcome"] == "WRONG" or number % 40 == 39:
            say(f"damage: {number + 1} of {count}" + (f" {outcome}" if outcome["outcome"] == "WRONG" else ""))
    return records


def judge(told: dict[str, Any], name: str, same: bool) -> str:
    """What became of a damaged file; "WRONG" is anything but the four ways that are meant."""
    notes, error = told["notes"], told["error"]
    if error is not None:
        kind, _, text = error.partition(": ")
        named = name in text or (name == "hierarchy.json" and text.startswith("run: hierarchy of"))
        plain = kind in ("ValueError", "TypeError", "FileNotFoundError") and "\n" not in text and named
        return "refused" if plain and name in ("config.json", "hierarchy.json") else "WRONG"
    if not same:
        return "WRONG"
    if notes:
        return "fell back" if len(notes) == 1 and name in notes[0] and "\n" not in notes[0] else "WRONG"
    return "no effect" if name in ("config.json", "hierarchy.json") or not told["changed"] else "unnoticed"
