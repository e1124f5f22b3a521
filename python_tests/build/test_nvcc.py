"""Every CUDA source compiles for every architecture, keeps its registers, and has the instructions it exists for."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CUDA = ROOT / "csrc" / "cuda"
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
SOURCES = sorted(CUDA.glob("*.cu"), key=lambda path: -path.stat().st_size)  # the longest compilation first

# Registers of a thread. 255 is all there are: the fused kernel holds one factor in 32-bit and two in 16-bit form. The
# Hadamard kernels keep two blocks of 256 threads on a multiprocessor (128), the normalisation kernels two of 512 (64).
# falcon_loss: a row of 10240 classes takes one block of 512 threads forward (128), two where rows are swept (64), and
# backward one at least, two where vectors are loaded. class_attentive: a block of
# 256 threads (255) holds sums of 64 x 128 gradients and as many of their norms. multilinear_pool_fwd_sm90: what a block
# of 384 threads starts with (168); its warpgroups then have 24 and 240, and ptxas spills where a branch needs more.
REGISTERS = {
    "multilinear_pool_fwd_sm80": 255,
    "multilinear_pool_fwd_sm90": 168,
    "hadamard_reduce": 128,
    "hadamard_grad": 128,
    "signed_sqrt_normalize": 64,
    "falcon_loss_fwd": 128,
    "falcon_loss_fwd_long": 64,
    "falcon_loss_bwd": 96,
    "class_attentive_fwd": 255,
    "class_attentive_bwd": 255,
    "class_attentive_prepare": 64,
}


def archs_of(source: Path) -> list[str]:
    """A suffix `_sm90` binds a file to sm_90a; the others are for every architecture."""
    return ["sm_90a"] if source.stem.endswith("_sm90") else ["sm_80", "sm_90", "sm_100"]


@dataclass
class Kernel:
    name: str
    registers: int
    stack: int
    spills: int


@dataclass
class Compiled:
    cubin: Path
    log: str

    def kernels(self) -> list[Kernel]:
        pattern = (
            r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
            r"(\d+) bytes spill loads.*?Used (\d+) registers"
        )
        return [
            Kernel(name, int(registers), int(stack), int(stores) + int(loads))
            for name, stack, stores, loads, registers in re.findall(pattern, self.log, re.DOTALL)
        ]


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> dict[tuple[str, str], Compiled]:
    if NVCC is None:
        pytest.skip("nvcc was not found")
    folder = tmp_path_factory.mktemp("cubins")
    known = subprocess.run([NVCC, "--list-gpu-code"], capture_output=True, text=True, check=True).stdout.split()

    def compile_one(job: tuple[Path, str]) -> tuple[tuple[str, str], Compiled]:
        source, arch = job
        cubin = folder / f"{source.stem}.{arch}.cubin"
        number = arch.removeprefix("sm_")
        command = [
            NVCC,
            "-std=c++17",
            "-O3",
            "-DNDEBUG",
            "--expt-relaxed-constexpr",
            "-Werror=all-warnings",
            "-Xptxas=-v",
        ]
        command += [f"-I{ROOT / 'csrc' / 'include'}", f"-I{ROOT / 'csrc'}", "-cubin", "-o", str(cubin), str(source)]
        command += [f"-gencode=arch=compute_{number},code=sm_{number}"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return (source.stem, arch), Compiled(cubin, done.stdout + done.stderr)

    jobs = [(source, arch) for source in SOURCES for arch in archs_of(source) if arch.rstrip("a") in known]
    with ThreadPoolExecutor(2) as pool:
        return dict(pool.map(compile_one, jobs))


def sass(cubin: Path) -> str:
    tool = shutil.which("cuobjdump")
    spec = importlib.util.find_spec("triton")
    if tool is None and spec is not None and spec.submodule_search_locations:
        tool = str(Path(spec.submodule_search_locations[0], "backends", "nvidia", "bin", "cuobjdump"))
    if tool is None or not Path(tool).exists():
        pytest.skip("cuobjdump was not found (the CUDA toolkit and the triton package have it)")
    return subprocess.run([tool, "--dump-sass", str(cubin)], capture_output=True, text=True, check=True).stdout


def test_registers_and_spills(compiled):
    for (source, arch), result in compiled.items():
        kernels = result.kernels()
        assert kernels, f"no kernel in {source} for {arch}"
        for kernel in kernels:
            assert kernel.spills == 0 and kernel.stack == 0, f"{source} {arch}: {kernel}"
            assert kernel.registers <= REGISTERS[source], f"{source} {arch}: {kernel}"


def test_every_source_has_a_budget():
    assert {source.stem for source in SOURCES} == set(REGISTERS)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_fused_forward_uses_tensor_cores_and_asynchronous_copies(compiled, arch):
    result = compiled["multilinear_pool_fwd_sm80", arch]
    code = sass(result.cubin)
    functions = code.split("Function : ")[1:]
    assert len(functions) == len(result.kernels())
    for function in functions:
        kind = "BF16" if "bfloat16" in function.split("\n", 1)[0] else "F32"
        assert re.search(rf"HMMA\.16816\.F32{'.BF16' if kind == 'BF16' else ' '}", function)
        assert "LDSM.16.M88.4" in function or "LDSM.16.MT88.4" in function
        assert "LDGSTS.E.BYPASS.128" in function and "DEPBAR" in function
        assert "LDL" not in function and "STL" not in function


def test_sm90_forward_multiplies_warpgroups_and_copies_by_tensor_maps(compiled):
    """Nothing that ptxas calls a performance loss (C75..): it serialises wgmma, or ignores the split of registers."""
    result = compiled["multilinear_pool_fwd_sm90", "sm_90a"]
    assert "C75" not in result.log
    functions = sass(result.cubin).split("Function : ")[1:]
    tiles = {}
    for function in functions:
        name = function.split("\n", 1)[0]
        kind, block_l, live, layout = re.search(
            r"kernelI(6__half|13__nv_bfloat16)Li(\d+)ELi(\d)ELN\w*LayoutE(\d)E", name
        ).groups()
        tiles.setdefault((int(block_l), int(live)), set()).add((kind, layout))
        operands = r"gdesc\[UR\d+\]\.tnspA" + (r"\.tnspB" if layout == "0" else "")
        products = re.findall(r"HGMMA\.64x(\d+)x16\.F32(\.BF16)? R\d+, (\S+?), R\d+(, !?UP\d)?", function)
        # Three factors of four steps; the first step of each starts its sums by a predicate, not by zeros.
        assert len(products) == 12 and sum(bool(predicate) for *_, predicate in products) == 3, name
        for size, bf16, operand, _ in products:
            assert size == block_l and bool(bf16) == ("bfloat16" in kind) and re.fullmatch(operands, operand), name
        assert re.search(r"UTMALDG\.4D \[", function) and "UTMALDG.4D.MULTICAST" in function, name
        assert "SYNCS.PHASECHK.TRANS64.TRYWAIT" in function and "SYNCS.ARRIVE.TRANS64" in function, name
        assert re.search(r"USETMAXREG\.TRY_ALLOC\.CTAPOOL UP\d, 0xf0", function), name  # 240
        assert "USETMAXREG.DEALLOC.CTAPOOL 0x18" in function, name  # 24
        assert "LDL" not in function and "STL" not in function, name
        # A fence of all memory in the loop would cost more than a stage.
        loop = function[function.index("HGMMA") : function.rindex("HGMMA")]
        assert not re.search("MEMBAR|CCTL|ERRBAR", loop), name
    listed = re.search(r"kTiles\[\] = (.*);", (ROOT / "csrc" / "plan" / "fused_sm90_tile.h").read_text())[1]
    assert set(tiles) == {(int(a), int(b)) for a, b in re.findall(r"\{(\d+), (\d+)\}", listed)}
    assert all(len(kinds) == 4 for kinds in tiles.values())


@pytest.mark.parametrize("source", ["hadamard_reduce", "hadamard_grad"])
def test_hadamard_kernels_move_vectors(compiled, source):
    wide = 0
    for function in sass(compiled[source, "sm_90"].cubin).split("Function : ")[1:]:
        name = function.split("\n", 1)[0]
        if "Li1ELi32E" in name:  # one column a thread, for chunks that are not aligned
            continue
        width = "64" if source == "hadamard_grad" and ("half" in name or "bfloat16" in name) else "128"
        assert f"LDG.E.{width}" in function, name
        assert source == "hadamard_reduce" or f"STG.E.{width}" in function, name
        wide += 1
    assert wide == 15  # three types by four named sets and one that is read at run time


def test_falcon_loss_copies_ahead_and_moves_vectors(compiled):
    """Kernels of vectors of four (`Li4E`): the next row of t arrives by asynchronous copies, all else 4 at a time."""
    for source, count in (("falcon_loss_fwd", 6), ("falcon_loss_fwd_long", 3), ("falcon_loss_bwd", 6)):
        functions = sass(compiled[source, "sm_90"].cubin).split("Function : ")[1:]
        vectors = [function for function in functions if "Li4E" in function.split("\n", 1)[0]]
        assert len(vectors) == count
        for function in vectors:
            name = function.split("\n", 1)[0]
            wide = "128" if "kernelIf" in name else "64"
            assert re.search(rf"LDG\.E\.{wide}", function) and "MUFU.EX2" in function, name
            assert re.search(rf"STG\.E\.{wide if source == 'falcon_loss_bwd' else '128'}", function), name
            assert ("LDGSTS" in function) == (source == "falcon_loss_fwd"), name


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
def test_class_attentive_sweeps(compiled, arch):
    """Tensor cores where operands are bfloat16, squares two at a time, asynchronous copies of 16 bytes."""
    for source, count in (("class_attentive_fwd", 1), ("class_attentive_bwd", 2)):
        functions = sass(compiled[source, arch].cubin).split("Function : ")[1:]
        sweeps = [f for f in functions if re.match(r"\w*(fwd_kernel|_sums_kernel)I", f)]
        assert len(sweeps) == 2 * count
        for function in sweeps:
            name = function.split("\n", 1)[0]
            tensor_cores = "bfloat16" in name
            assert ("HMMA.16816.F32.BF16" in function) == tensor_cores == ("LDSM" in function), name
            assert not tensor_cores or re.search(r"H(FMA2|MUL2)[\w.]*BF16", function), name
            assert tensor_cores or function.count("FFMA") > 200, name
            assert "LDGSTS.E.BYPASS.128" in function and "MUFU.EX2" in function, name


def test_assembly_and_launches_have_one_place():
    for path in CUDA.glob("*.cu*"):
        text = path.read_text()
        assert ("asm" in re.findall(r"\basm\b", text)) == (path.name in ("mma_sm80.cuh", "sm90.cuh")), path.name
        assert ("<<<" in text) == ("cudaLaunchKernelEx" in text) == (path.name == "launch.cuh"), path.name
