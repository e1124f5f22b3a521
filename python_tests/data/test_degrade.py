"""The degradation operator: identity, determinism, agreement of PIL images and tensors, and what it removes."""

import re

import numpy as np
import pytest
import torch

from c2f_ops.data import degrade, degrade_settings
from c2f_ops.data.degrade import _resize_in_float, resize_uint8

SIZES = [(32, 7), (64, 32), (97, 33), (128, 127), (5, 1), (1, 1)]


def noise(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def to_pil(image):
    pil = pytest.importorskip("PIL.Image")
    array = image.permute(1, 2, 0).numpy()
    return pil.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def from_pil(image):
    array = np.array(image)
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())


@pytest.mark.parametrize(("side", "r"), SIZES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("filters", [{}, {"down": "bicubic"}, {"up": "bicubic"}, {"down": "area"}])
def test_pil_and_tensor_agree_within_one_grey_level(side, r, channels, filters):
    image = noise(channels, side, side)
    pil = degrade(to_pil(image), r, **filters)
    difference = from_pil(pil).int() - degrade(image, r, **filters).int()
    assert pil.size == (side, side)
    # One level of difference after the way down becomes up to 1.25 ** 2 levels where bicubic weights are negative.
    assert difference.abs().max() <= (2 if "up" in filters else 1)


@pytest.mark.parametrize(
    "shape", [(3, 20, 20), (2, 3, 20, 20), (2, 1, 20, 20), (0, 3, 20, 20), (2, 4, 20, 20), (2, 5, 20, 20)]
)
def test_kind_and_size_are_kept(shape):
    image = noise(*shape)
    out = degrade(image, 6)
    assert out.shape == image.shape
    assert out.dtype == torch.uint8


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("r", [1, 2, 9])
def test_channels_do_not_mix(channels, r):
    batch = noise(2, channels, 20, 20)
    out = degrade(batch, r)
    for c in range(channels):
        assert torch.equal(out[:, c : c + 1], degrade(batch[:, c : c + 1], r))


def test_area_is_the_mean_of_what_a_pixel_covers():
    image = noise(2, 3, 12, 12)
    for r in (1, 2, 3, 4, 6):  # whole pixels: plain means, rows first, rounded after each pass
        means = image.float().view(2, 3, 12, r, 12 // r).mean(-1).add(0.5).floor()
        means = means.view(2, 3, r, 12 // r, r).mean(3).add(0.5).floor()
        assert torch.equal(resize_uint8(image, (r, r), "area").float(), means)
    row = torch.tensor([0, 100, 200], dtype=torch.uint8).expand(1, 3, 3)
    assert resize_uint8(row, (2, 2), "area")[0, 0].tolist() == [33, 167]  # (2/3) 0 + (1/3) 100, (1/3) 100 + (2/3) 200
    assert resize_uint8(noise(3, 448, 448), (37, 37), "area").float().mean().sub(127.5).abs() < 1
    assert torch.equal(degrade(image, 5, down="area")[1], degrade(image[1], 5, down="area"))


def test_jpeg_between_down_and_up():
    pytest.importorskip("PIL.Image")
    smooth = torch.arange(48, dtype=torch.uint8).mul(5).expand(2, 3, 48, 48).contiguous()
    plain = degrade(smooth, 24)
    errors = [(degrade(smooth, 24, jpeg=quality).int() - plain.int()).abs().float().mean() for quality in (95, 30, 5)]
    assert 0 < errors[0] < 2
    assert errors[0] < errors[1] < errors[2]
    batch = noise(3, 3, 32, 32)
    out = degrade(batch, 16, jpeg=50)
    assert torch.equal(out, torch.stack([degrade(image, 16, jpeg=50) for image in batch]))
    assert torch.equal(out, degrade(batch.contiguous(memory_format=torch.channels_last), 16, jpeg=50))
    assert degrade(batch[:, :1], 16, jpeg=50).shape == (3, 1, 32, 32)
    assert torch.equal(degrade(batch, 32, jpeg=5), batch)
    difference = from_pil(degrade(to_pil(smooth[0]), 24, jpeg=90)).int() - degrade(smooth[0], 24, jpeg=90).int()
    assert difference.abs().float().mean() < 1
    for bad in (0, 96, 50.0, True):
        with pytest.raises(ValueError, match=f"degrade: jpeg must be None or an int from 1 to 95, got {bad}"):
            degrade(batch, 16, jpeg=bad)
    with pytest.raises(ValueError, match="must have 1 or 3 channels with jpeg, got 2"):
        degrade(batch[:, :2], 16, jpeg=50)


@pytest.mark.parametrize("r", [16, 17, 448])
def test_full_side_is_the_identity(r):
    image = noise(2, 3, 16, 16)
    assert torch.equal(degrade(image, r), image)
    pil = to_pil(image[0])
    assert torch.equal(from_pil(degrade(pil, r)), image[0])


def test_deterministic_and_the_same_in_any_batch():
    batch = noise(5, 3, 33, 33)
    before = batch.clone()
    out = degrade(batch, 10)
    assert torch.equal(batch, before)
    assert torch.equal(out, degrade(batch, 10))
    assert torch.equal(out, torch.stack([degrade(image, 10) for image in batch]))
    assert torch.equal(out, degrade(batch.contiguous(memory_format=torch.channels_last), 10))
    big = noise(5, 3, 40, 70)
    assert torch.equal(degrade(big[:, :, 3:36, 20:53], 10), degrade(big[:, :, 3:36, 20:53].contiguous(), 10))


def test_detail_above_the_limit_is_removed():
    checkerboard = ((torch.arange(64)[:, None] + torch.arange(64)) % 2 * 255).to(torch.uint8).expand(3, 64, 64)
    inner = degrade(checkerboard, 32)[:, 4:-4, 4:-4].int()
    assert (inner - 127.5).abs().max() <= 1
    assert degrade(checkerboard, 64).int().diff().abs().min() == 255


def test_coarse_detail_is_kept():
    halves = torch.zeros(3, 64, 64, dtype=torch.uint8)
    halves[:, :, 32:] = 200
    out = degrade(halves, 8)
    assert (out[:, :, :20] == 0).all()  # triangles of 8 pixels on both sides, down and up
    assert (out[:, :, 44:] == 200).all()


@pytest.mark.parametrize(("side", "r"), SIZES)
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_the_float_passes_agree_with_the_8_bit_kernel(side, r, mode):
    """The path of other devices, run on the CPU: one grey level after one resize."""
    batch = noise(2, 3, side, side)
    for size in ((r, r), (2 * side, side)):
        difference = _resize_in_float(batch, size, mode).int() - resize_uint8(batch, size, mode).int()
        assert difference.abs().max() <= 1


@pytest.mark.parametrize(
    ("image", "r", "error", "message"),
    [
        (noise(3, 8, 9), 4, ValueError, "degrade: image must be square, got 8 x 9"),
        (noise(8), 4, ValueError, "degrade: image must be square, got 8"),
        (noise(8, 8), 4, ValueError, "degrade: image must be a uint8 tensor [C, S, S] or [N, C, S, S]"),
        (noise(3, 8, 8).float(), 4, ValueError, "got torch.float32 [3, 8, 8]"),
        (noise(3, 8, 8), 0, ValueError, "degrade: r must be at least 1, got 0"),
        (noise(3, 8, 8), -4, ValueError, "degrade: r must be at least 1, got -4"),
        (noise(3, 8, 8), 4.0, TypeError, "degrade: r must be an int, got float 4.0"),
        (noise(3, 8, 8), True, TypeError, "degrade: r must be an int, got bool True"),
        (
            np.zeros((8, 8, 3), np.uint8),
            4,
            TypeError,
            "degrade: image must be a PIL image or a uint8 tensor, got ndarray",
        ),
    ],
)
def test_bad_input(image, r, error, message):
    with pytest.raises(error, match=re.escape(message)):
        degrade(image, r)


def test_bad_pil_images_and_options():
    pil = pytest.importorskip("PIL.Image")
    for image, message in ((pil.new("RGB", (8, 9)), "square, got 8 x 9"), (pil.new("P", (8, 8)), "RGB or L, got P")):
        with pytest.raises(ValueError, match=message):
            degrade(image, 4)
    with pytest.raises(ValueError, match="down must be one of bilinear, bicubic, area, got 'nearest'"):
        degrade(noise(3, 8, 8), 4, down="nearest")


def test_settings_record_the_operator():
    settings = degrade_settings(up="bicubic")
    assert settings["torch"] == torch.__version__
    assert (settings["down"], settings["up"]) == ("bilinear, antialiased", "bicubic")
    assert degrade_settings(down="area")["down"] == "area"
    with pytest.raises(ValueError, match=r"degrade_settings: down must be one of .*, got 'nearest'"):
        degrade_settings(down="nearest")
    with pytest.raises(ValueError, match="degrade_settings: jpeg must be None or an int from 1 to 95, got 96"):
        degrade_settings(jpeg=96)
    pillow = pytest.importorskip("PIL").__version__
    assert degrade_settings(up="bicubic", jpeg=50) == {**settings, "jpeg": 50, "pillow": pillow}
