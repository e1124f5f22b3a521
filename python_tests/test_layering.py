"""Who may import whom (docs/design.md), read off the sources."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import c2f_ops.bench
import pytest

import c2f_ops

PACKAGE = Path(c2f_ops.__file__).parent
BENCH = Path(c2f_ops.bench.__file__).parent  # beside the package in the sources, inside it once installed
CSRC = Path(__file__).parents[1] / "csrc"

# Top to bottom. A module imports from lower lines and from its own line, below `functional` only from lower lines.
LAYERS = [
    {"cli"},
    {"training", "estimators"},
    {"models", "data", "losses", "metrics", "answering"},
    {"nn", "hierarchy", "_hierarchy_tables", "_hierarchy_checks"},
    {"functional", "neighbours", "relations", "_files"},
    {"_checks", "_ops", "_knn"},
    {"cpu", "cuda", "triton"},
    {"_chunked", "_encoding", "_validated", "_native"},
    {"problem", "reference"},
    {"_version", "_splitmix"},
]
# These look at everything, and only the two top lines look at them: public names, the report on the installation, tools
# of the tests, benchmarks.
FREE = {"__init__", "_info", "bench", "testing"}
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FUNCTIONAL = LEVEL["functional"]
# Exact lists where a layer is too coarse.
ONLY = {
    "cpu": {"_native", "_encoding", "problem"},
    "cuda": {"_native", "_encoding", "_chunked", "_validated", "problem"},
    "triton": {"_chunked", "_validated", "problem"},
    "_native": {"_version"},
    "reference": set(),
}
CORE_DEPENDENCIES = {"torch", "numpy"}
# Packages whose classes must derive from, or be decorated by, what an extra brings, and the studies, which are scripts.
EXTRAS_AT_TOP_LEVEL = {"cli": {"typer", "rich"}, "estimators": {"sklearn"}, "triton": {"triton"}}
EXTRAS_AT_TOP_LEVEL["bench"] = {"pytest", "sklearn"}
EXTRAS = ("PIL", "accelerate", "matplotlib", "rich", "safetensors", "scipy", "sklearn", "tensorboard", "timm")
EXTRAS += ("anndata", "faiss", "pandas", "pyarrow", "torchvision", "triton", "typer")

MODULES = sorted({*PACKAGE.rglob("*.py"), *BENCH.rglob("*.py")})


def name_of(path):
    inside = path.relative_to(PACKAGE) if path.is_relative_to(PACKAGE) else "bench" / path.relative_to(BENCH)
    return ".".join(("c2f_ops", *inside.with_suffix("").parts))


def room_of(dotted):
    """`c2f_ops.models.mlph` -> "models", `c2f_ops` -> "__init__"; what ops hand to rooms is a room of its own."""
    if dotted == "c2f_ops._ops.problem":
        return "problem"
    return (*dotted.split("."), "__init__")[1]


def imports(path):
    """Yield (dotted module, runs at import time) for each import, without those that only a type checker reads."""

    def visit(node, top):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                yield from ((alias.name, top) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                package = name_of(path).split(".")[: -child.level] if child.level else []
                base = ".".join([*package, *([child.module] if child.module else [])])
                # `from . import x` names a module of ours, `from .x import y` a thing in one.
                yield from ((f"{base}.{a.name}", top) for a in child.names) if base == "c2f_ops" else [(base, top)]
            else:
                inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from visit(child, top and not inside)

    yield from visit(ast.parse(path.read_text()), True)


def each_module(test):
    return pytest.mark.parametrize("path", MODULES, ids=[name_of(path) for path in MODULES])(test)


@each_module
def test_our_imports_go_down_the_layers(path):
    room = room_of(name_of(path))
    if room in FREE:
        return
    assert room in LEVEL, f"{room} has no layer: give it one in LAYERS"
    for target, _ in imports(path):
        other = room_of(target)
        if not target.startswith("c2f_ops") or other == room:
            continue
        if other in FREE and LEVEL[room] < 2:
            continue
        assert other in LEVEL, f"{name_of(path)} imports {target}"
        down = LEVEL[other] > LEVEL[room] or LEVEL[other] == LEVEL[room] < FUNCTIONAL
        backend = LEVEL[room] < FUNCTIONAL < LEVEL[other] and other not in {"_checks", "_version"}
        assert down and not backend and other in ONLY.get(room, {other}), f"{name_of(path)} imports {target}"


@each_module
def test_third_party_imports_stand_where_they_are_used(path):
    name = name_of(path)
    allowed = CORE_DEPENDENCIES | EXTRAS_AT_TOP_LEVEL.get(room_of(name), set())
    for target, top in imports(path):
        library = target.partition(".")[0]
        if library in {*sys.stdlib_module_names, "c2f_ops"}:
            continue
        assert not top or library in allowed, f"{name} imports {library} at import time: import it where it is used"
        assert library != "triton" or room_of(name) == "triton", f"{name} imports triton, which c2f_ops/triton/ does"
        assert library in CORE_DEPENDENCIES or room_of(name) != "reference", (
            f"{name} imports {library}, the reference is plain torch or numpy"
        )


def test_functional_does_not_look_at_the_device():
    tree = ast.parse("\n".join(path.read_text() for path in sorted((PACKAGE / "functional").glob("*.py"))))
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    compared = {
        side.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        for side in (node.left, *node.comparators)
        if isinstance(side, ast.Constant)
    }
    assert not attributes & {"is_cuda", "is_cpu"}
    assert "cuda" not in compared


def test_core_modules_import_without_any_extra():
    names = [
        name.removesuffix(".__init__") for name in map(name_of, MODULES) if room_of(name) not in EXTRAS_AT_TOP_LEVEL
    ]
    code = f"""
import importlib, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
for name in {names}:
    importlib.import_module(name)
"""
    # Not from the repository root: `python -c` would import the source tree from where it stands.
    here = Path(__file__).parent
    result = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-2000:]


# ---- csrc ------------------------------------------------------------------------------------------------------------

SOURCES = sorted(p for p in CSRC.rglob("*") if p.suffix in {".h", ".cpp", ".cu", ".cuh"})
# Folder -> folders of ours it may include from; bindings show plans, and of csrc/cpu cpu_features.h alone.
OURS = {
    "include": {"include"},
    "cpu": {"include", "cpu"},
    "plan": {"include", "plan", "cpu"},
    "check": {"include", "cpu"},
    "cuda": {"include", "cuda", "plan"},
    "bindings": {"include", "bindings", "plan", "cpu/cpu_features.h"},
}
STANDARD = r"[a-z_]+"  # <vector>, <cstdint>
SYSTEM = {
    "include": STANDARD,
    "plan": STANDARD,
    "check": STANDARD,
    "cpu": rf"{STANDARD}|(immintrin|cpuid|dlfcn|pthread|sched|unistd|arm_neon|sys/\w+)\.h",
    "cuda": rf"{STANDARD}|(cuda\w*|cooperative_groups|mma|sm_\w+)(\.h)?|cuda/\w+|cooperative_groups/\w+\.h",
    "bindings": rf"{STANDARD}|pybind11/\w+\.h",
}
GENERATED = {"build_facts.h"}


@pytest.mark.parametrize("path", SOURCES, ids=[str(p.relative_to(CSRC)) for p in SOURCES])
def test_headers_of_csrc(path):
    folder = path.relative_to(CSRC).parts[0]
    for bracket, header in re.findall(r'^\s*#\s*include\s*([<"])([^>"]+)', path.read_text(), re.MULTILINE):
        if bracket == "<":
            assert re.fullmatch(SYSTEM[folder], header), f"{path.name} includes <{header}>"
        elif header not in GENERATED:
            places = (path.parent / header, CSRC / "include" / header, CSRC / header)
            found = next((p.resolve().relative_to(CSRC) for p in places if p.exists()), None)
            assert found is not None, f"{path.name} includes {header!r}, which does not exist"
            assert {found.parts[0], found.as_posix()} & OURS[folder], f"{path.name} includes {found}"


def test_file_names_of_csrc_are_unique():
    names = [path.name for path in SOURCES]
    assert len(names) == len(set(names)), sorted(name for name in set(names) if names.count(name) > 1)
