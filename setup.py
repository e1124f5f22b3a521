"""Builds the native module c2f_ops._C with CMake where a compiler is found; never imports torch."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
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
os.environ["PATH"] += os.pathsep + sysconfig.get_path("scripts")  # where an environment that is not activated has cmake


def run(*command):
    """Run and echo a command; return None, or one line of why it failed."""
    if not shutil.which(command[0]):
        return f"{command[0]} was not found"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        lines = [print(line, end="", flush=True) or line for line in process.stdout]
    first = next((i for i, line in enumerate(lines) if re.search("error", line, re.IGNORECASE)), -4)
    return " ".join("".join(lines[first:]).split())[:240] or f"{command[0]} failed" if process.returncode else None


class Build(build):
    def run(self):
        shutil.rmtree(Path(self.build_lib, "c2f_ops"), ignore_errors=True)  # pack nothing of an earlier build
        super().run()


class BuildNative(build_ext):
    def run(self):
        Path(self.get_ext_fullpath("c2f_ops._C")).unlink(missing_ok=True)
        super().run()

    def build_extensions(self):
        failure = self.cmake(CUDA)
        if failure and CUDA == "auto":
            print(f"c2f_ops: WARNING: trying again without CUDA: {failure}", file=sys.stderr)
            failure = self.cmake("off", f"-DC2F_CUDA_NOTE=it did not build: {failure}")
        if failure and "require" in (NATIVE, CUDA):
            sys.exit(f"c2f_ops: C2F_NATIVE={NATIVE}, C2F_CUDA={CUDA}: {failure}")
        if failure:
            print(f"c2f_ops: WARNING: no native code, reference and Triton remain: {failure}", file=sys.stderr)
            self.extensions = self.distribution.ext_modules = []

    def cmake(self, cuda, *options):
        import pybind11

        folder, target = Path(self.build_temp, "cmake").resolve(), Path(self.get_ext_fullpath("c2f_ops._C")).resolve()
        shutil.rmtree(folder, ignore_errors=True)  # a kept CMakeCache.txt points into an earlier, deleted environment
        options += (f"-DC2F_CUDA={cuda}", f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target.parent}")
        options += (f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}")
        if archs := os.environ.get("C2F_CUDA_ARCHS"):
            options += (f"-DC2F_CUDA_ARCHS={re.sub('[, ]+', ';', archs)}",)
        failure = run("cmake", "-S", ".", "-B", str(folder), "-G", "Ninja", *options)
        return failure or run("cmake", "--build", str(folder))


class Wheel(bdist_wheel):
    def run(self):
        self.run_command("build")
        self.root_is_pure = not self.distribution.has_ext_modules()  # known after the build: py3-none-any without _C
        super().run()


setup(
    packages=[*find_packages(include=["c2f_ops*"]), "c2f_ops.bench"],
    package_dir={"c2f_ops.bench": "bench"},
    ext_modules=[] if NATIVE == "off" else [Extension("c2f_ops._C", sources=[])],
    cmdclass={"build": Build, "build_ext": BuildNative, "bdist_wheel": Wheel},
)
