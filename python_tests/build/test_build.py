"""The package builds where it should, without torch, and says why where it cannot."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import c2f_ops

ROOT = Path(__file__).parents[2]
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
GOOD_KERNEL = "__global__ void scale_kernel(float* x) { x[threadIdx.x] *= 2; }\n"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the build tests read ELF files and Linux wheel tags"),
]


@pytest.fixture
def project(tmp_path):
    """A copy of the package whose native module has no ops: it goes the whole way of a build in seconds."""
    copy = tmp_path / "project"
    shutil.copytree(ROOT / "c2f_ops", copy / "c2f_ops", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "CMakeLists.txt", "MANIFEST.in", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy)
    for folder in ("bench", "cmake", "csrc/include"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("results", "__pycache__"))
    for name in (
        "cpu/cpu_features.h",
        "cpu/cpu_features.cpp",
        "bindings/bindings.h",
        "bindings/build_facts.h.in",
        "bindings/module.cpp",
    ):
        (copy / "csrc" / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / "csrc" / name, copy / "csrc" / name)
    module = copy / "csrc/bindings/module.cpp"
    module.write_text(re.sub(r"\n.*\bbind_\w+\(m\);", "", module.read_text()))
    torch = tmp_path / "poison/torch"
    torch.mkdir(parents=True)
    (torch / "__init__.py").write_text("raise RuntimeError('the build imported torch')")
    return copy


def execute(project, *command, **variables):
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("C2F_", "CMAKE_")) and k not in ("CC", "CXX")
    }
    environment.update({"C2F_CUDA": "off", "PYTHONPATH": str(project.parent / "poison")} | variables)
    return subprocess.run(
        [sys.executable, *command], cwd=project, env=environment, text=True, timeout=200,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def build_wheel(project, *options, **variables):
    """Build and return the wheel and the log; fail with the log."""
    out = project / "out"
    shutil.rmtree(out, ignore_errors=True)
    arguments = ["-m", "pip", "wheel", "-v", "--no-deps", "-w", str(out), *(options or ["--no-build-isolation"]), "."]
    result = execute(project, *arguments, **variables)
    assert result.returncode == 0, result.stdout[-4000:]
    (wheel,) = out.glob("*.whl")
    return wheel, result.stdout


def names_of(wheel):
    return zipfile.ZipFile(wheel).namelist()


def build_info(wheel, folder):
    """Load the native module out of a wheel, without the package around it."""
    (name,) = [name for name in names_of(wheel) if re.match(r"c2f_ops/_C\.", name)]
    path = zipfile.ZipFile(wheel).extract(name, folder)
    code = (
        "import importlib.util, json, sys; spec = importlib.util.spec_from_file_location('_C', sys.argv[1]);"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module);"
        "print(json.dumps(module.build_info()))"
    )
    return json.loads(subprocess.check_output([sys.executable, "-c", code, path], text=True))


def test_two_builds_in_a_row_then_one_without_a_compiler(project, tmp_path):
    (project / "c2f_ops/gone.py").touch()
    first, _ = build_wheel(project)
    assert "py3-none-any" not in first.name
    files = {path.relative_to(project).as_posix() for path in (project / "c2f_ops").rglob("*.*")}
    assert {"c2f_ops/gone.py", "c2f_ops/py.typed"} <= files <= {*names_of(first)}
    assert "c2f_ops/bench/cases.py" in names_of(first)

    # The second build finds a cache that points into nowhere, and modules of the first.
    (cache,) = project.glob("build/temp*/cmake/CMakeCache.txt")
    cache.write_text(
        re.sub(r"(CMAKE_(MAKE_PROGRAM|CXX_COMPILER|HOME_DIRECTORY):\w+=).*", r"\1/nonexistent", cache.read_text())
    )
    (project / "c2f_ops/gone.py").unlink()
    (project / "c2f_ops/_version.py").write_text('__version__ = "9.8.7"\n')
    second, _ = build_wheel(project)
    assert second.name.startswith("c2f_ops-9.8.7-")
    assert "c2f_ops/gone.py" not in names_of(second)
    info = build_info(second, tmp_path / "second")
    assert info["version"] == "9.8.7" and info["commit"] == "unknown" and info["cuda"] is False
    assert info["isas"][0] == "portable"

    # Without a compiler nothing of the earlier builds is packed, and the tag says so.
    pure, log = build_wheel(project, "--no-build-isolation", CXX="/nonexistent")
    assert pure.name == "c2f_ops-9.8.7-py3-none-any.whl"
    assert not [name for name in names_of(pure) if name.endswith(".so")]
    (note,) = re.findall("c2f_ops: WARNING: no native code.*", log)
    assert "/nonexistent" in note


def test_native_off_is_a_pure_wheel(project):
    wheel, log = build_wheel(project, "--no-build-isolation", C2F_NATIVE="off")
    assert wheel.name.endswith("-py3-none-any.whl") and "cmake" not in log.lower()


def test_isolated_build(project, tmp_path):
    arguments = ["-m", "pip", "wheel", "-v", "--no-deps", "-w", str(project / "out"), "."]
    result = execute(project, *arguments, C2F_NATIVE="require")
    if re.search("No matching distribution found|connection (broken|error)|Retrying", result.stdout, re.IGNORECASE):
        pytest.skip("the package index cannot be reached")
    assert result.returncode == 0, result.stdout[-4000:]
    (wheel,) = (project / "out").glob("*.whl")
    assert build_info(wheel, tmp_path)["version"] == re.search(r"c2f_ops-([^-]+)-", wheel.name)[1]


def test_editable_install_builds_in_place(project, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True, timeout=60)
    python = tmp_path / "venv/bin/python"
    tools = os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))
    arguments = ["--python", python, "install", "--no-build-isolation", "--no-deps", "-e", "."]
    result = execute(project, "-m", "pip", *arguments, PYTHONPATH=tools)
    assert result.returncode == 0, result.stdout[-4000:]
    assert len(list((project / "c2f_ops").glob("_C.*.so"))) == 1


def test_source_archive_is_complete(project):
    assert execute(project, "setup.py", "-q", "sdist").returncode == 0
    (archive,) = (project / "dist").glob("*.tar.gz")
    names = {name.partition("/")[2] for name in tarfile.open(archive).getnames()}
    wanted = {
        path.relative_to(project).as_posix()
        for f in ("bench", "csrc", "cmake", "c2f_ops")
        for path in (project / f).rglob("*.*")
    }
    assert wanted | {"CMakeLists.txt", "setup.py", "pyproject.toml", "LICENSE"} <= names


@pytest.mark.parametrize("name", ["C2F_NATIVE", "C2F_CUDA"])
def test_bad_choice_is_named(project, name):
    result = execute(project, "setup.py", "--version", **{name: "maybe"})
    assert result.returncode != 0
    assert f"{name} must be auto, off or require, got 'maybe'" in result.stdout


def test_contradicting_choices(project):
    result = execute(project, "setup.py", "--version", C2F_NATIVE="off", C2F_CUDA="require")
    assert result.returncode != 0 and "C2F_CUDA=require needs native code" in result.stdout


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"C2F_NATIVE": "require", "CXX": "/nonexistent"}, "/nonexistent"),
        ({"C2F_CUDA": "require", "CUDACXX": "/nonexistent"}, "cannot compile and link a test program"),
    ],
)
def test_required_part_that_cannot_be_built_is_an_error(project, variables, words):
    (project / "csrc/cuda").mkdir()
    (project / "csrc/cuda/scale.cu").write_text(GOOD_KERNEL)
    result = execute(project, "setup.py", "build", **variables)
    assert result.returncode != 0
    assert words in result.stdout.splitlines()[-1]


@pytest.mark.skipif(NVCC is None, reason="nvcc was not found")
def test_cuda_is_built_for_the_architectures_asked_for(project, tmp_path):
    (project / "csrc/cuda").mkdir()
    (project / "csrc/cuda/scale.cu").write_text(GOOD_KERNEL)
    (project / "csrc/cuda/scale_sm90.cu").write_text(
        "#if __CUDA_ARCH__ != 900 && defined(__CUDA_ARCH__)\n#error\n#endif\n"
    )
    wheel, log = build_wheel(project, "--no-build-isolation", C2F_CUDA="require", C2F_CUDA_ARCHS="80,90a,999")
    info = build_info(wheel, tmp_path)
    assert info["cuda"] is True and info["cuda_archs"] == ["80", "90a"] and info["cuda_note"] == ""
    assert "does not know sm_999: dropped" in log


@pytest.mark.skipif(NVCC is None, reason="nvcc was not found")
def test_cuda_that_does_not_compile_is_dropped_with_a_note(project, tmp_path):
    (project / "csrc/cuda").mkdir()
    (project / "csrc/cuda/broken.cu").write_text('#error "broken on purpose"\n')
    wheel, log = build_wheel(project, "--no-build-isolation", C2F_CUDA="auto", C2F_CUDA_ARCHS="80")
    assert "c2f_ops: WARNING: trying again without CUDA" in log
    info = build_info(wheel, tmp_path)
    assert info["cuda"] is False and info["cuda_note"].startswith("it did not build: ")


def installed():
    """The installed distribution, skipping where the source tree is on the path instead."""
    try:
        distribution = importlib.metadata.distribution("c2f_ops")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("c2f_ops is not installed, the tests run on a source tree")
    return distribution


def test_the_tests_run_on_the_installed_package():
    distribution = installed()
    if '"editable": true' in (distribution.read_text("direct_url.json") or ""):
        pytest.skip("an editable installation is the source tree")
    package = Path(distribution.locate_file("c2f_ops")).resolve()
    assert Path(c2f_ops.__file__).resolve().parent == package
    native = importlib.util.find_spec("c2f_ops._C")
    assert native is None or Path(native.origin).resolve().parent == package


def test_native_module_needs_only_the_c_and_cpp_runtime():
    native = importlib.util.find_spec("c2f_ops._C")
    if native is None:
        pytest.skip("c2f_ops has no native module")
    if shutil.which("readelf") is None:
        pytest.skip("readelf was not found")
    dynamic = subprocess.check_output(["readelf", "-d", native.origin], text=True)
    needed = set(re.findall(r"NEEDED.*\[(\w[\w+-]*)\.so", dynamic))
    assert needed and needed <= {
        "libstdc++",
        "libm",
        "libgcc_s",
        "libc",
        "libpthread",
        "ld-linux-x86-64",
        "ld-linux-aarch64",
    }
