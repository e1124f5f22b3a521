"""info() tells the truth in plain values, and a missing native module is explained in one line."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from c2f_ops import _native
from c2f_ops._info import format_info, info
from c2f_ops._version import __version__

native_only = pytest.mark.skipif(_native.unavailable() is not None, reason=f"{_native.unavailable()}")


def python(code, **variables):
    """Run code away from the source tree, which `python -c` would import from where it stands."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("C2F_")} | variables
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=environment, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=120
    )


def test_info_is_plain_and_complete():
    facts = info()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["version"] == __version__
    assert facts["found"]["torch"] == torch.__version__
    assert facts["found"]["python"] == platform.python_version()
    assert len(facts["found"]["gpus"]) == torch.cuda.device_count()
    assert facts["found"]["threads"] == torch.get_num_threads()
    assert set(facts["backends"]["multilinear_pool"]) == {"reference", "cpu", "triton", "cuda"}
    assert facts["backends"]["multilinear_pool"]["reference"] == "ok"
    assert (facts["built"]["native"] == "ok") == (_native.unavailable() is None)


def test_format_info_shows_every_fact():
    text = format_info(
        {
            "version": "1.2",
            "built": {"isas": ["portable", "avx2"], "cuda_archs": []},
            "found": {"gpus": [{"name": "H200", "capability": "9.0"}, {"name": "A100", "capability": "8.0"}]},
        }
    )
    assert text.splitlines() == [
        "version  1.2",
        "built",
        "  isas        portable, avx2",
        "  cuda_archs  none",
        "found",
        "  gpus  H200 9.0, A100 8.0",
    ]


@native_only
@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs /proc/cpuinfo")
def test_cpu_features_agree_with_the_kernel():
    flags = set(Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split())
    assert {name: name in flags for name in _native.module().cpu_features()} == _native.module().cpu_features()


@native_only
def test_forced_instruction_set():
    code = "from c2f_ops import _native; print(_native.module().cpu_isa())"
    assert python(code, C2F_CPU_ISA="portable").stdout == "portable\n"
    best = python(code).stdout.strip()
    assert best in _native.module().build_info()["isas"]
    refused = python("from c2f_ops import _native; print(_native.unavailable())", C2F_CPU_ISA="mmx").stdout
    assert "C2F_CPU_ISA must be one of portable" in refused and "got 'mmx'" in refused


def test_native_switched_off_at_run_time():
    code = "from c2f_ops import _native; print(_native.unavailable()); _native.module()"
    result = python(code, C2F_NATIVE="off")
    assert result.stdout == "native code is switched off (C2F_NATIVE=off)\n"
    assert result.stderr.endswith("RuntimeError: native code is switched off (C2F_NATIVE=off)\n")


def test_bad_run_time_choice_is_named():
    result = python("from c2f_ops import _native; _native.unavailable()", C2F_NATIVE="maybe")
    assert "ValueError: C2F_NATIVE must be auto, off or require, got 'maybe'" in result.stderr


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (None, "c2f_ops was built without native code (no compiler was found, or C2F_NATIVE=off)"),
        ("raise ImportError('libfoo.so.1: cannot\\nopen')", "c2f_ops._C does not load: libfoo.so.1: cannot open"),
        (
            "build_info = lambda: {'version': '0'}",
            f"c2f_ops._C is of version 0, the package of {__version__}: build it again",
        ),
    ],
)
def test_reason_for_a_missing_module(tmp_path, source, reason):
    """A package of the same name holding only the loader, and in place of the module what it must explain."""
    package = tmp_path / "c2f_ops"
    package.mkdir()
    for name in ("_native.py", "_version.py"):
        (package / name).write_text(Path(_native.__file__).with_name(name).read_text())
    (package / "__init__.py").touch()
    if source:
        (package / "_C.py").write_text(source)
    code = "from c2f_ops import _native; print(_native.unavailable()); print(_native.cuda_unavailable())"
    assert python(code, PYTHONPATH=str(tmp_path)).stdout.splitlines() == [reason, reason]
    assert reason in python(code, PYTHONPATH=str(tmp_path), C2F_NATIVE="require").stderr
