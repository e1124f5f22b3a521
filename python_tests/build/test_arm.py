"""The CPU kernels for Arm: compiled as CMake would there, vectorised, and run where an emulator of the processor is."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def run(*command, **options):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def compiler(tmp_path_factory):
    """A C++ compiler for 64-bit Arm on Linux: GCC, or Clang as the package ziglang has it."""
    if gcc := shutil.which("aarch64-linux-gnu-g++"):
        return gcc
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("no compiler for Arm: neither aarch64-linux-gnu-g++ nor the package ziglang")
    zig = tmp_path_factory.mktemp("compiler") / "zig-c++"
    zig.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ziglang c++ -target aarch64-linux-musl "$@"\n')
    zig.chmod(0o755)
    return zig


@pytest.fixture(scope="module")
def built(compiler, tmp_path_factory):
    """Folder in which CMake compiled what an Arm machine gets, without a warning."""
    if shutil.which("cmake") is None or shutil.which("ninja") is None:
        pytest.skip("no cmake and ninja here")
    folder = tmp_path_factory.mktemp("arm")
    arm = ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={compiler}")
    options = ("-G", "Ninja", "-DC2F_CUDA=off", f"-DPython_EXECUTABLE={sys.executable}", "-DCMAKE_CXX_FLAGS=-Werror")
    options += ("-DCMAKE_EXE_LINKER_FLAGS=-static",)  # an emulator then needs no libraries
    run("cmake", "-S", ROOT, "-B", folder, *arm, *options)
    run("cmake", "--build", folder, "--target", "c2f_cpu", "-j", "2")
    return folder


def commands(folder):
    """How each source file of the kernels was compiled."""
    entries = json.loads((folder / "compile_commands.json").read_text())
    return {Path(e["file"]).stem: shlex.split(e["command"]) for e in entries if "/bindings/" not in e["file"]}


def test_no_file_of_another_processor_is_compiled(built):
    names = commands(built)
    assert {"kernels_portable", "cpu_features", "multilinear_pool_bwd"} <= names.keys()
    assert not [name for name in names if re.search("_(avx2|avx512|avx512_bf16|amx)$", name)]
    assert not [name for name, command in names.items() if any(word.startswith("-mavx") for word in command)]


@pytest.mark.parametrize("name", ["kernels_portable", "pair_tiles_portable", "falcon_loss_portable"])
def test_kernels_are_vectors(built, name):
    """Four lanes are multiplied and added by one instruction: no loop is left to scalars."""
    *command, _, _, _, source = commands(built)[name]  # -o OBJECT -c SOURCE
    assembly = built / f"{name}.s"
    run(*(word for word in command if word != "-Werror"), "-g0", "-S", source, "-o", assembly, cwd=built)
    text = assembly.read_text(errors="replace")
    vectors, scalars = (
        len(re.findall(pattern, text)) for pattern in (r"\bfml[as]\s+v\d+\.4s", r"\bfmn?(?:add|sub)\s+s\d")
    )
    assert vectors >= 50 and vectors > 4 * scalars, (vectors, scalars)


def test_results(built):
    """Forward and backward of every type, on one thread and on three, on an emulated processor."""
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if emulator is None:
        pytest.skip("no qemu-aarch64 here")
    run("cmake", "--build", built, "--target", "pool_check")
    assert run(emulator, built / "pool_check").count("threads equal") == 3
