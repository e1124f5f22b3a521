"""Hostile pickles, offered wherever a file of others is read: none may run, each is refused in one sentence."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import shutil
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from c2f_ops._files import MODEL
from c2f_ops.data.cifar import load_cifar100
from c2f_ops.hierarchy import Hierarchy
from c2f_ops.models import MLPH, TappedBackbone, load_backbone_weights, make_backbone
from c2f_ops.training import load_run

_NET = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}


class Reduced:
    """Pickles as the call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


class Stateful:
    """Pickles as a plain object and a state that it would be given by code."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def __reduce__(self) -> Any:
        return (torch.nn.Module, (), {"forward": self.state})


def hostile(sentinel: Path) -> dict[str, bytes]:
    """Ten files, each of which would make ``sentinel`` if it were unpickled as Python does."""
    command = f"touch {sentinel}"
    text = f"__import__('os').system({command!r})"
    system, weights = Reduced(os.system, command), {"conv1.weight": torch.zeros(2)}
    called = f"cposix\nsystem\n(S'{command}'\ntR."  # protocol 0: GLOBAL, REDUCE
    rebuilt = Reduced(torch._tensor._rebuild_from_type_v2, os.system, torch.Tensor, (command,), None)
    archive, array = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            entry = tarfile.TarInfo(name)
            entry.size = len(called)
            tar.addfile(entry, io.BytesIO(called.encode()))
    np.savez(array, weight=np.array([system], dtype=object))
    return {
        "os.system in a file of torch.save": saved(system),
        "builtins.eval among the weights": saved({**weights, "x": Reduced(eval, text)}),
        "os.system deep in a state dict": saved({"state_dict": {**weights, "a": [{"b": (system,)}]}}),
        "the old format of torch.save": saved({**weights, "x": system}, _use_new_zipfile_serialization=False),
        "the oldest, a tar archive": archive.getvalue(),
        "protocol 0 by hand": called.encode(),
        "opcode INST": f"(S'{command}'\niposix\nsystem\n.".encode(),
        "a tensor subclass with a function of its own": saved({**weights, "x": rebuilt}),
        "a module with a state": saved({**weights, "x": Stateful(system)}),
        "an object array in .npz": array.getvalue(),
    }  # fmt: skip


def saved(content: Any, **options: Any) -> bytes:
    """Bytes of torch.save."""
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def runs(data: bytes, sentinel: Path) -> bool:
    """Whether one of the readers that trust a file runs it; else its refusal would mean nothing."""
    path = sentinel.with_name("trusted")
    path.write_bytes(data)
    for read in (
        lambda: pickle.loads(data),
        lambda: torch.load(path, weights_only=False),
        lambda: np.load(path, allow_pickle=True)["weight"],
    ):
        with contextlib.suppress(Exception):
            read()
    return sentinel.exists()


def doors(folder: Path, run: Path) -> dict[str, Callable[[bytes], Any]]:
    """Everything that reads a file which others may have made."""
    tree = Hierarchy(("coarse", "fine"), (("a", "b"), ("c", "d")), (None, (0, 1)))
    net = {"backbone": "timm/resnet10t", "backbone_options": _NET, "image_size": 32, "dim": 4}

    def put(data: bytes, name: str) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    def tapped(data: bytes, name: str) -> Any:
        return TappedBackbone("timm/resnet10t", weights=str(put(data, name)), options=_NET, image_size=32)

    def cifar(data: bytes) -> Any:
        (folder / "meta").write_bytes(pickle.dumps({}))
        (folder / "train").write_bytes(data)
        return load_cifar100(folder, "train")

    def pretrained(data: bytes) -> Any:
        MLPH(tree, **net).save_pretrained(folder / "saved")
        (folder / "saved" / MODEL).write_bytes(data)
        return MLPH.from_pretrained(folder / "saved")

    def checkpoint(data: bytes) -> Any:
        shutil.rmtree(folder / "run", ignore_errors=True)
        shutil.copytree(run, folder / "run")
        for path in (folder / "run" / "checkpoints").glob(f"*/{MODEL}"):
            path.write_bytes(data)
        return load_run(folder / "run", "cpu")

    backbone = make_backbone("cifar_resnet18", options={"widths": (4, 8), "blocks": (1, 1)})
    return {
        "`load_backbone_weights`, .pth": lambda data: load_backbone_weights(backbone, put(data, "w.pth")),
        "`load_backbone_weights`, .safetensors": lambda data: load_backbone_weights(backbone, put(data, MODEL)),
        "`--weights`, .pth": lambda data: tapped(data, "w.pth"),
        "`--weights`, .safetensors": lambda data: tapped(data, MODEL),
        "`MLPH.from_pretrained`": pretrained,
        "a checkpoint of a run": checkpoint,
        "the CIFAR reader": cifar,
    }  # fmt: skip


def run_pickles(folder: Path, run: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Offer each file at each door; ``run`` is a run folder with checkpoints."""
    sentinel, records = folder / "sentinel", []
    for name, data in hostile(sentinel).items():
        armed = runs(data, sentinel)
        for door, read in doors(folder, run).items():
            sentinel.unlink(missing_ok=True)
            answer = "read"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    read(data)
                except Exception as error:
                    answer = f"{type(error).__name__}: {error}"
            plain = answer.startswith(("ValueError: ", "FileNotFoundError: ")) and "\n" not in answer
            refused = armed and not sentinel.exists() and plain
            records.append({"pickle": name, "door": door, "answer": answer, "refused": refused})
            if not refused:
                say(f"pickles: {records[-1]}")
    say(f"pickles: {sum(r['refused'] for r in records)} of {len(records)} refused")
    return records
