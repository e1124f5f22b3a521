"""Files that outlive a kill: written whole or not at all, and able to tell whether they are as they were written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

#: A folder of checkpoints, and what each of them holds.
CHECKPOINTS, MODEL, OPTIMIZER, STATE = "checkpoints", "model.safetensors", "optimizer.safetensors", "state.json"
_SIGNATURE, _ASIDE = "sha256", ".old"


class Damaged(ValueError):
    """A file is not what was written; ``reason`` goes on from its name."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}")
        self.path, self.reason = path, reason


# Writing.


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path beside ``path`` to write to; it takes the place of ``path`` once it is written and on the disk."""
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial")
    try:
        yield partial
        sync(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    sync(path.parent)


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that there is the old one or the new one at any moment, also after a power cut."""
    with replacing(path) as partial:
        partial.write_bytes(data)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write readable JSON, atomically."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def replace_folder(partial: Path, final: Path) -> None:
    """Put a written folder in its place; one that stands there steps aside first, and counts until this is done."""
    for path in [*partial.iterdir(), partial]:
        sync(path)
    aside = final.with_name(final.name + _ASIDE)
    if final.exists():
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(final, aside)
    os.replace(partial, final)
    sync(final.parent)
    shutil.rmtree(aside, ignore_errors=True)


def sync(path: Path) -> None:
    """Bring a file or folder to the disk, so that a rename cannot outrun its content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# Reading.


def sha256_of(path: Path) -> str:
    """Hash of a file.

    Raises:
        Damaged: It is not there or cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise _unreadable(path, error) from None
    return digest.hexdigest()


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        Damaged: It is not there, or is no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise _unreadable(path, error) from None
    except (ValueError, RecursionError) as error:
        raise Damaged(path, f"is no JSON ({error})") from None


def signed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON data with their own hash, which `read_signed` checks."""
    return {**content, _SIGNATURE: _hash(content)}


def read_signed(path: Path, *, required: bool = True) -> tuple[dict[str, Any], str | None]:
    """Read what `signed` gave: the content and its hash.

    Args:
        path: File.
        required: Whether the hash must be there, or may have been taken out by someone who edited the file.

    Raises:
        Damaged: The file is not there, is no JSON object, or is not as it was written.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise Damaged(path, f"holds a {type(content).__name__} in place of values by name")
    signature = content.pop(_SIGNATURE, None)
    if signature is None and required:
        raise Damaged(path, f"has no {_SIGNATURE}")
    try:
        as_written = signature in (None, _hash(content))
    except RecursionError:
        as_written = False
    if not as_written:
        raise Damaged(path, f"is not as it was written: its {_SIGNATURE} does not match")
    return content, signature


def checkpoint_folders(run: Path) -> list[Path]:
    """Folders of checkpoints of a run, newest first."""
    found = {p: re.fullmatch(rf"step-(\d+)({re.escape(_ASIDE)})?", p.name) for p in (run / CHECKPOINTS).glob("step-*")}
    ranks = {path: (int(match[1]), match[2] is None) for path, match in found.items() if match}
    return sorted(ranks, key=ranks.__getitem__, reverse=True)


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """Return the state of a checkpoint.

    Raises:
        Damaged: A file of it is missing or not as it was written.
    """
    path = folder / STATE
    state, _ = read_signed(path)
    files = state.get("files")
    if not isinstance(files, dict) or MODEL not in files or not files.keys() <= {MODEL, OPTIMIZER}:
        raise Damaged(path, f"must list {MODEL} and perhaps {OPTIMIZER}, got {files!r:.80}")
    named = re.match(r"step-(\d+)", folder.name)
    if named and state.get("step") != int(named[1]):
        raise Damaged(path, f"is that of step {state.get('step')!r:.80}")
    if not isinstance(state.get("hierarchy"), str):
        raise Damaged(path, f"must name a hierarchy, got {state.get('hierarchy')!r:.80}")
    for name, digest in files.items():
        if sha256_of(folder / name) != digest:
            raise Damaged(folder / name, f"is not as it was written: {STATE} has another sha256")
    return state


def newest_checkpoint(run: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest intact checkpoint of a run and its state, with a warning for each damaged one passed over."""
    folders = checkpoint_folders(run)
    for number, folder in enumerate(folders, 1):
        try:
            return folder, read_checkpoint(folder)
        except Damaged as error:
            then = "the one before it is taken" if number < len(folders) else "there is none before it"
            warnings.warn(f"checkpoint: {folder} is damaged: {error.path.name} {error.reason}; {then}", stacklevel=3)
    return None


def _hash(content: Mapping[str, Any]) -> str:
    # As the file will be read: through JSON, tuples become lists and keys become words.
    plain = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _unreadable(path: Path, error: OSError) -> Damaged:
    return Damaged(path, "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})")
