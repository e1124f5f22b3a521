"""Builds the native module c2f_ops._C with CMake where a compiler is found; never imports torch."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext


def choice(name):
    value = os.environ.get(name) or "auto"
    if value not in ("auto", "off", "require"):
        sys.exit(f"c2f_ops: {name} must be auto, off or require, got {value!r}")
    return value


NATIVE, CUDA = choice("C2F_NATIVE"), choice("C2F_CUDA")
if NATIVE == "off" and CUDA == "require":
    sys.exit("c2f_ops: C2F_CUDA=require needs native code, but C2F_NATIVE=off")


def run(*command):
    """Run and echo a command; return None, or one line of why it failed."""
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    first = next((i for i, line in enumerate(lines) if re.search(r"error|FAILED", line, re.IGNORECASE)), -4)
    return " ".join("".join(lines[first:]).split())[:240] or str(command) if process.returncode else None


class Build(build):
    def run(self):
        shutil.rmtree(Path(self.build_lib, "c2f_ops"), ignore_errors=True)  # nothing of an earlier build is packed
        super().run()


class BuildNative(build_ext):
    def run(self):
        Path(self.get_ext_fullpath("c2f_ops._C")).unlink(missing_ok=True)
        super().run()

    def build_extensions(self):
        failure = self.cmake(CUDA)
        if failure and CUDA == "auto":
            print(f"c2f_ops: WARNING: trying again without CUDA: {failure}", file=sys.stderr)
            failure = self.cmake("off", f"-DC2F_CUDA_NOTE=did not compile: {failure}")
        if failure and "require" in (NATIVE, CUDA):
            sys.exit(f"c2f_ops: C2F_NATIVE={NATIVE}, C2F_CUDA={CUDA}: {failure}")
        if failure:
            print(f"c2f_ops: WARNING: no native code, reference and Triton remain: {failure}", file=sys.stderr)
            self.extensions = self.distribution.ext_modules = []

    def cmake(self, cuda, *options):
        import pybind11

        folder, target = Path(self.build_temp, "cmake"), Path(self.get_ext_fullpath("c2f_ops._C"))
        shutil.rmtree(folder, ignore_errors=True)  # a kept CMakeCache.txt points into an earlier, deleted environment
        tools = {name: shutil.which(name) or shutil.which(name, path=sysconfig.get_path("scripts")) for name in ("cmake", "ninja")}
        if None in tools.values():
            return f"cmake and ninja are needed, found {tools}"
        archs = os.environ.get("C2F_CUDA_ARCHS")
        options += (f"-DC2F_CUDA_ARCHS={re.sub('[, ]+', ';', archs)}",) if archs else ()
        # fmt: off
        return run(tools["cmake"], "-S", str(Path(__file__).resolve().parent), "-B", str(folder), "-G", "Ninja",
                   f"-DCMAKE_MAKE_PROGRAM={tools['ninja']}", f"-DPython_EXECUTABLE={sys.executable}",
                   f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", f"-DC2F_CUDA={cuda}",
                   f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target.resolve().parent}", *options,
                   ) or run(tools["cmake"], "--build", str(folder))
        # fmt: on


class Wheel(bdist_wheel):
    def run(self):
        self.run_command("build")
        self.root_is_pure = not self.distribution.has_ext_modules()  # known only after the build: py3-none-any
        super().run()


setup(
    ext_modules=[] if NATIVE == "off" else [Extension("c2f_ops._C", sources=[])],
    cmdclass={"build": Build, "build_ext": BuildNative, "bdist_wheel": Wheel},
)
