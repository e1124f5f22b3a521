"""Ahead-of-time compilation of every Triton kernel for sm_80, sm_90 and sm_100: needs Triton, no GPU.

The launchers run on meta tensors with a recorder in place of the kernel, and what they would launch is compiled with
the specialisation that Triton's own launch derives. What is kept: no register spills, shared memory that fits, tensor
core instructions.
"""

import functools
import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton", minversion="3.5")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter replaces the compiler", allow_module_level=True)
if not list(Path(triton.__file__).parent.glob("backends/nvidia/bin/ptxas*")):
    pytest.skip("this build of Triton has no ptxas", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from c2f_ops.triton import class_attentive_grad_kernels as attentive_grad  # noqa: E402
from c2f_ops.triton import class_attentive_kernels as attentive_kernels  # noqa: E402
from c2f_ops.triton import class_attentive_supcon as attentive  # noqa: E402
from c2f_ops.triton import epilogue_kernels, falcon_kernels, fused_kernels, hadamard_kernels  # noqa: E402
from c2f_ops.triton import falcon_loss as falcon  # noqa: E402
from c2f_ops.triton import multilinear_pool as pool  # noqa: E402
from c2f_ops.triton import signed_sqrt_normalize as epilogue  # noqa: E402

MLP = ((0, 1), (0, 2), (1, 2), (0, 1, 2))
SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.uint8: "u8"}
TYPES |= {torch.int32: "i32", torch.int64: "i64"}


class Recorder:
    """Stands where a kernel stands; keeps the one launch."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        self.grid = grid
        return self.record

    def record(self, *args, **kwargs):
        self.args, self.kwargs = args, kwargs


def record(monkeypatch, module, name, launch) -> Recorder:
    recorder = Recorder(getattr(module, name))
    with monkeypatch.context() as patch:
        patch.setattr(module, name, recorder)
        launch()
    return recorder


def specialise(value, path, constants, attributes):
    """The signature of one argument; constants and alignments go to their dictionaries, as in a launch."""
    if isinstance(value, tuple):
        return tuple(specialise(v, (*path, i), constants, attributes) for i, v in enumerate(value))
    if isinstance(value, torch.Tensor):
        attributes[path] = [["tt.divisibility", 16]]
        return "*" + TYPES[value.dtype]
    if value is None or (isinstance(value, int) and value == 1):
        constants[path] = value
        return "constexpr"
    if isinstance(value, float):
        return "fp32"
    if value % 16 == 0:
        attributes[path] = [["tt.divisibility", 16]]
    return "i32" if value < 2**31 else "i64"


def compile_launch(recorder: Recorder, capability: int):
    kernel = recorder.kernel
    values = dict(zip(kernel.arg_names, recorder.args, strict=False)) | recorder.kwargs
    options = {name: values.pop(name) for name in ("num_warps", "num_stages") if name in values}
    signature, constants, attributes = {}, {}, {}
    for i, param in enumerate(kernel.params):
        if param.is_constexpr:
            signature[param.name], constants[(i,)] = "constexpr", values[param.name]
        else:
            signature[param.name] = specialise(values[param.name], (i,), constants, attributes)
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def resources(compiled) -> tuple[int, int]:
    """(registers, bytes of stack and local memory a thread) of a compiled kernel."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not tool.exists():
        pytest.skip("this build of Triton has no cuobjdump")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [tool, "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack, local = (int(re.search(rf"{key}:(\d+)", text).group(1)) for key in ("REG", "STACK", "LOCAL"))
    return registers, stack + local


def operands(dtype, layout, channels=(512,) * 3, length=784, width=8192, batch=8):
    empty = functools.partial(torch.empty, device="meta", dtype=dtype)
    if layout == "positions":
        features = [empty(batch, c, length).transpose(1, 2) for c in channels]
    else:
        features = [empty(batch, length, c) for c in channels]
    biases = [torch.empty(width, device="meta")] * len(channels)
    return features, [empty(c, width) for c in channels], biases


# the compiler of Triton 3.5 spills up to 88 bytes where later ones spill nothing
OLD_COMPILER_SPILLS = 96 if triton.__version__.startswith("3.5.") else 0


def check(compiled, capability, spill_limit=0):
    registers, spilled = resources(compiled)
    print(f"sm_{capability}: {registers} registers, {spilled} spilled bytes, {compiled.metadata.shared} bytes shared")
    assert spilled <= max(spill_limit, OLD_COMPILER_SPILLS)
    assert compiled.metadata.shared <= SHARED_BYTES[capability]


def problem_of(features, weights, interactions=MLP):
    return pool.Problem.of(features, weights, None, interactions, "none")


@pytest.mark.parametrize(("layout", "save"), [("positions", False), ("channels", False), ("positions", True)])
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_fused_forward(monkeypatch, capability, layout, save):
    """The chosen tiles keep the tensor cores fed: matrix instructions, asynchronous copies, no spills."""
    features, weights, biases = operands(torch.bfloat16, layout)
    plan = pool.fused_plan(problem_of(features, weights), save, divmod(capability, 10))
    launch = functools.partial(pool.fused_fwd, features, weights, biases, None, MLP, "none", save, plan)
    compiled = compile_launch(record(monkeypatch, fused_kernels, "multilinear_pool_fwd_kernel", launch), capability)
    # saving on sm_100 keeps a little on the stack around the transposed store, outside of the loop over channels
    check(compiled, capability, spill_limit=16 if save and capability == 100 else 0)
    instruction = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}[capability]
    assert instruction in compiled.asm["ptx"]
    assert "cp.async.cg.shared.global" in compiled.asm["ptx"]


@pytest.mark.parametrize(
    "case",
    [
        {"length": 196},  # 8-byte copies
        {"length": 197, "layout": "channels", "channels": (768,) * 3},
        {"channels": (256, 512, 1024)},
        {"channels": (512,) * 4, "interactions": ((0, 1), (2, 3), (0, 1, 2, 3))},
        {"interactions": ((0, 1),), "channels": (512,) * 2},
        {"dtype": torch.float16, "channels": (97,) * 3, "width": 100, "length": 50},
    ],
    ids=str,
)
def test_fused_forward_shapes(monkeypatch, case):
    """Other shapes on sm_90: no spills, asynchronous copies wherever two 16-bit neighbours are aligned."""
    interactions = case.pop("interactions", MLP)
    features, weights, biases = operands(**{"dtype": torch.bfloat16, "layout": "positions", **case})
    plan = pool.fused_plan(problem_of(features, weights, interactions), False)
    launch = functools.partial(pool.fused_fwd, features, weights, biases, None, interactions, "none", False, plan)
    compiled = compile_launch(record(monkeypatch, fused_kernels, "multilinear_pool_fwd_kernel", launch), 90)
    check(compiled, 90)
    assert "wgmma.mma_async" in compiled.asm["ptx"] and "cp.async" in compiled.asm["ptx"]


@pytest.mark.parametrize("tf32", [False, True])
def test_fused_forward_float32(monkeypatch, tf32):
    """Tensor cores for float32 only where torch allows TF32."""
    monkeypatch.setattr(pool, "_tf32_allowed", lambda: tf32)
    features, weights, biases = operands(torch.float32, "positions")
    plan = pool.fused_plan(problem_of(features, weights), False)
    mask = torch.empty(8, 784, device="meta", dtype=torch.bool)
    launch = functools.partial(pool.fused_fwd, features, weights, biases, mask, MLP, "tanh", False, plan)
    compiled = compile_launch(record(monkeypatch, fused_kernels, "multilinear_pool_fwd_kernel", launch), 90)
    check(compiled, 90)
    assert ("tf32" in compiled.asm["ptx"]) == tf32


@pytest.mark.parametrize(
    ("capability", "dtype"), [(80, torch.float16), (90, torch.float16), (90, torch.float32), (100, torch.float16)]
)
def test_hadamard(monkeypatch, capability, dtype):
    u = [torch.empty(8, 784, 1024, device="meta", dtype=dtype)] * 3
    biases, mask = [torch.empty(8192, device="meta")] * 3, torch.empty(8, 784, device="meta")
    p, scale = torch.empty(8, 4, 8192, device="meta"), torch.empty(3, device="meta")
    launch = functools.partial(pool.hadamard_reduce, u, biases, mask, MLP, "tanh", p, 1024)
    recorder = record(monkeypatch, hadamard_kernels, "hadamard_reduce_kernel", launch)
    check(compile_launch(recorder, capability), capability)
    for needs, want_bias in (([True] * 3, [True] * 3), ([True, False, True], [False, True, False])):
        launch = functools.partial(pool.hadamard_grad, u, biases, p, mask, MLP, "tanh", 1024, needs, scale, want_bias)
        recorder = record(monkeypatch, hadamard_kernels, "hadamard_grad_kernel", launch)
        check(compile_launch(recorder, capability), capability)


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_epilogue(monkeypatch, capability):
    p, d_out = torch.empty(8, 4, 8192, device="meta"), torch.empty(8, 4, 8192, device="meta", dtype=torch.bfloat16)
    options = "smooth", 0.03, "joint", "clamp", 1e-12
    forward = functools.partial(epilogue.signed_sqrt_normalize_fwd, p, *options, torch.bfloat16)
    backward = functools.partial(epilogue.signed_sqrt_normalize_bwd, d_out, p, *options)
    for name, launch in (("fwd", forward), ("bwd", backward)):
        recorder = record(monkeypatch, epilogue_kernels, f"signed_sqrt_normalize_{name}_kernel", launch)
        # sm_100 keeps the arguments on the stack, stored once, around the subroutine of the exact square root
        limit = 16 if capability == 100 else 0
        check(compile_launch(recorder, capability), capability, limit)


FALCON = [(capability, 608, torch.float32) for capability in (80, 90, 100)]
FALCON += [(90, 8192, torch.bfloat16), (90, 10000, torch.float32)]
FALCON += [
    pytest.param(capability, classes, dtype, marks=pytest.mark.slow)
    for capability in (80, 100)
    for classes, dtype in ((8192, torch.bfloat16), (10000, torch.float32))
]


@pytest.mark.parametrize(("capability", "classes", "dtype"), FALCON)
def test_falcon_loss(monkeypatch, capability, classes, dtype):
    """One block a row, small and large, and steps through a longer row."""
    empty = functools.partial(torch.empty, device="meta")
    z = empty(512, classes, dtype=dtype)
    y, g, neighbours = (empty(shape, dtype=kind) for shape, kind in (
        ((512, 2), torch.int64), ((2, classes), torch.int32), ((512, 5), torch.int64)))  # fmt: skip
    monkeypatch.setattr(falcon, "_mass", lambda z, lse, mass: None)
    launch = functools.partial(falcon.falcon_loss_fwd, z, z, z, neighbours, y, g, empty(3), 0.9, 0.5, True)
    check(compile_launch(record(monkeypatch, falcon_kernels, "falcon_loss_fwd_kernel", launch), capability), capability)
    launch = functools.partial(falcon.falcon_loss_bwd, empty(512), empty(classes), z, empty(512), empty(512, classes))
    check(compile_launch(record(monkeypatch, falcon_kernels, "falcon_loss_bwd_kernel", launch), capability), capability)


def test_falcon_mass(monkeypatch):
    """The recorder keeps the second launch, the sum of the parts; the first one differs in HAS_LSE."""
    empty = functools.partial(torch.empty, device="meta")
    launch = functools.partial(falcon._mass, empty(512, 608), empty(512), empty(608))
    recorder = record(monkeypatch, falcon_kernels, "falcon_mass_kernel", launch)
    check(compile_launch(recorder, 90), 90)


def attentive_launches(monkeypatch, capability, dtype, width, classes):
    """Launches of every kernel of class_attentive_supcon, by name: the last of each."""
    empty = functools.partial(torch.empty, device="meta")
    z, labels, one = empty(4096, width, dtype=dtype), empty(4096, 2, dtype=torch.int64), empty(4096)
    index = empty(4096, dtype=torch.int64)
    operands = z, z, labels, labels, index, index, empty(classes, width)
    options = [0.0, 0.5, 1.0], [1.0, 3.0, 1.0], False, 0.1, 1e-6, 0
    plan, recorders = attentive.plan_of(dtype, width, divmod(capability, 10)), {}
    with monkeypatch.context() as patch:
        patch.setattr(attentive, "plan_of", lambda *_: plan)
        for module in (attentive_kernels, attentive_grad):
            for name in [n for n in vars(module) if n.startswith("class_attentive_") and n.endswith("_kernel")]:
                recorders[name] = Recorder(getattr(module, name))
                patch.setattr(module, name, recorders[name])
        attentive.class_attentive_supcon_fwd(*operands, *options)
        attentive.class_attentive_supcon_bwd(one, one, one, *operands, *options, [True] * 3)
    return {name.removeprefix("class_attentive_").removesuffix("_kernel"): r for name, r in recorders.items()}


PAIRS = ("fwd", "queries", "keys")
ATTENTIVE = [(90, torch.bfloat16, 128, 100, name) for name in (*PAIRS, "anchors", "finish", "d_z", "d_v")]
ATTENTIVE += [
    pytest.param(capability, dtype, 128, 100, name, marks=pytest.mark.slow)
    for capability, dtype in ((80, torch.bfloat16), (100, torch.bfloat16), (80, torch.float32), (90, torch.float32),
                              (100, torch.float32), (90, torch.float16))
    for name in PAIRS
]  # fmt: skip
ATTENTIVE += [
    pytest.param(90, torch.bfloat16, width, classes, name, marks=pytest.mark.slow)
    for width, classes in ((128, 1), (1025, 100))
    for name in PAIRS
]


@pytest.mark.parametrize(("capability", "dtype", "width", "classes", "name"), ATTENTIVE)
def test_class_attentive(monkeypatch, capability, dtype, width, classes, name):
    """The products of tiles run on tensor cores, without spilled registers."""
    compiled = compile_launch(attentive_launches(monkeypatch, capability, dtype, width, classes)[name], capability)
    # with two levels ptxas for sm_100 stops at 128 registers and keeps 16 bytes on the stack
    # on sm_90 the keys' sums keep in local memory what does not fit: wide rows, and float32 as three products in tf32
    wide = name == "keys" and capability == 90 and (dtype != torch.bfloat16 or width > 256)
    check(compiled, capability, spill_limit=16 if capability == 100 else 400 if wide else 0)
    if name in PAIRS:
        instruction = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}[capability]
        assert instruction in compiled.asm["ptx"] and "cp.async" in compiled.asm["ptx"]


def test_grid_of_a_large_batch(monkeypatch):
    """A batch above 65535 and more than 2**31 elements in a projection: one grid dimension holds it all."""
    features, weights, biases = operands(torch.bfloat16, "channels", channels=(8, 8, 8), length=4, batch=100_000)
    plan = pool.fused_plan(problem_of(features, weights), False)
    launch = functools.partial(pool.fused_fwd, features, weights, biases, None, MLP, "none", False, plan)
    recorder = record(monkeypatch, fused_kernels, "multilinear_pool_fwd_kernel", launch)
    assert recorder.grid == (100_000 * 8192 // plan.block_d,) and recorder.grid[0] < 2**31
