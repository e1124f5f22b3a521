"""The degradation operator: what an image of side S keeps when it is seen at side r."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

ImageOrTensor = TypeVar("ImageOrTensor", "Image", Tensor)

FILTERS = ("bilinear", "bicubic")
DOWN_FILTERS = (*FILTERS, "area")


def degrade(
    image: ImageOrTensor, r: int, *, down: str = "bilinear", up: str = "bilinear", jpeg: int | None = None
) -> ImageOrTensor:
    """Return the image reduced to r x r and enlarged again to its own side S.

    Down with antialiasing, rounded to 8 bit, up to S x S; r >= S returns the image as it is. Deterministic. A PIL image
    and the tensor of the same image give results at most one grey level apart (two with ``up="bicubic"``, which
    overshoots): both filter first along rows, then along columns, with 8-bit rounding after each pass. ``jpeg`` can
    enlarge that difference.

    Args:
        image: a square PIL image of mode RGB or L, or a uint8 tensor ``[C, S, S]`` or ``[N, C, S, S]``.
        r: side in pixels, at least 1.
        down: ``"bilinear"``, ``"bicubic"``, or ``"area"``: each pixel is the mean of the part of the image it covers.
        up: ``"bilinear"`` or ``"bicubic"``.
        jpeg: quality, 1 to 95, of a JPEG file of the r x r image, as it comes over a narrow link; None for no file.
            With Pillow, one image after the other, of 1 or 3 channels.

    Returns:
        An image of the same kind and size.

    Raises:
        ValueError: the image is not square or not 8 bit, or an option is unknown.
        TypeError: r is not an integer, or the image is of another kind.

    Source:
        "Coarse-to-Fine Grained Classification", SIGIR 2019, section 4; the paper names neither filter nor rounding.
    """
    if isinstance(r, bool) or not isinstance(r, int):
        raise TypeError(f"degrade: r must be an int, got {type(r).__name__} {r!r}")
    if r < 1:
        raise ValueError(f"degrade: r must be at least 1, got {r}")
    _check_options("degrade", down, up, jpeg)
    if isinstance(image, Tensor):
        _check_square(tuple(image.shape[-2:]))
        if image.dtype != torch.uint8 or image.ndim not in (3, 4):
            raise ValueError(
                f"degrade: image must be a uint8 tensor [C, S, S] or [N, C, S, S], "
                f"got {image.dtype} {list(image.shape)}"
            )
        side = image.shape[-1]
        if r >= side:
            return image
        small = resize_uint8(image, (r, r), down)
        return resize_uint8(small if jpeg is None else _through_jpeg(small, jpeg), (side, side), up)
    return _degrade_pil(image, r, down, up, jpeg)


def degrade_settings(*, down: str = "bilinear", up: str = "bilinear", jpeg: int | None = None) -> dict[str, Any]:
    """Return what a run must record about the operator, as plain data.

    Raises:
        ValueError: an option is unknown.
    """
    _check_options("degrade_settings", down, up, jpeg)
    shrunk = down if down == "area" else f"{down}, antialiased"
    settings = {"down": shrunk, "rounding": "uint8 after each pass", "up": up, "torch": torch.__version__}
    return settings if jpeg is None else {**settings, "jpeg": jpeg, "pillow": _pillow().__version__}


def resize_uint8(images: Tensor, size: tuple[int, int], mode: str = "bilinear") -> Tensor:
    """Resize uint8 images ``[C, H, W]`` or ``[N, C, H, W]`` with antialiasing, as Pillow does (but for ``"area"``).

    On the CPU this is torch's own 8-bit kernel. Elsewhere the same two passes, along rows and along columns, are done
    in float32 and rounded to 8 bit after each.
    """
    batch = images if images.ndim == 4 else images[None]
    if batch.numel() == 0:
        out = batch.new_empty((*batch.shape[:2], *size))
    elif mode == "area":
        out = _resize_by_area(batch, size)
    elif batch.device.type != "cpu":
        out = _resize_in_float(batch, size, mode)
    elif 1 in size:
        # torch's kernel stops with an internal error on colour images when one pixel is to be filled, not on planes.
        planes = batch.flatten(0, 1)[:, None]
        out = F.interpolate(planes, size=size, mode=mode, antialias=True).view(*batch.shape[:2], *size)
    else:
        out = F.interpolate(batch, size=size, mode=mode, antialias=True)
    return out if images.ndim == 4 else out[0]


def _resize_in_float(batch: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    values = batch.float()
    for pass_size in ((batch.shape[-2], size[1]), size):
        values = F.interpolate(values, size=pass_size, mode=mode, antialias=True)
        values = values.add_(0.5).floor_().clamp_(0, 255)
    return values.to(torch.uint8)


def _resize_by_area(batch: Tensor, size: tuple[int, int]) -> Tensor:
    """Means over fractions of pixels; torch's own ``"area"`` rounds the borders outward to whole pixels."""
    values = batch.float()
    for dim, count in ((-1, size[1]), (-2, size[0])):
        weights = _coverage(values.shape[dim], count).to(values)
        values = (values.transpose(dim, -1) @ weights.T).transpose(dim, -1)
        values = values.add_(0.5).floor_().clamp_(0, 255)
    return values.to(torch.uint8)


def _coverage(old: int, new: int) -> Tensor:
    """Share of each of ``old`` pixels in each of ``new`` ones, float64 ``[new, old]``, rows sum to 1."""
    start = torch.arange(new, dtype=torch.float64)[:, None] * old  # borders in units of 1 / new pixels: exact
    pixel = torch.arange(old, dtype=torch.float64) * new
    return (torch.minimum(start + old, pixel + new) - torch.maximum(start, pixel)).clamp(min=0) / old


def _through_jpeg(images: Tensor, quality: int) -> Tensor:
    Image = _pillow()
    if images.shape[-3] not in (1, 3):
        raise ValueError(f"degrade: image must have 1 or 3 channels with jpeg, got {images.shape[-3]}")
    out = torch.empty_like(images, device="cpu", memory_format=torch.contiguous_format)
    flat = out.view(-1, *images.shape[-3:])
    for target, image in zip(flat, images.cpu().reshape(flat.shape), strict=True):
        array = image.permute(1, 2, 0).numpy()
        picture = _written(Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array), quality)
        target.copy_(torch.from_numpy(np.array(picture).reshape(array.shape)).permute(2, 0, 1))
    return out.to(images.device)


def _written(image: Image, quality: int) -> Image:
    """Return the image as it comes back from a JPEG file."""
    from PIL import Image

    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def _degrade_pil(image: Any, r: int, down: str, up: str, jpeg: int | None) -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise TypeError(f"degrade: image must be a PIL image or a uint8 tensor, got {type(image).__name__}") from None
    if not isinstance(image, Image.Image):
        raise TypeError(f"degrade: image must be a PIL image or a uint8 tensor, got {type(image).__name__}")
    if image.mode not in ("RGB", "L"):
        raise ValueError(f"degrade: image must have mode RGB or L, got {image.mode}; use image.convert('RGB')")
    _check_square(image.size)
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    if r >= image.width:
        return image
    if down == "area":  # Pillow's box filter takes whole pixels only
        tensor = torch.from_numpy(np.array(image)).view(image.height, image.width, -1).permute(2, 0, 1)
        reduced = resize_uint8(tensor, (r, r), down).permute(1, 2, 0).numpy()
        small = Image.fromarray(reduced[..., 0] if image.mode == "L" else reduced)
    else:
        small = image.resize((r, r), filters[down])
    return (small if jpeg is None else _written(small, jpeg)).resize(image.size, filters[up])


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise ImportError('degrade: Pillow, for jpeg, is not installed; pip install "c2f_ops[train]"') from None
    return Image


def _check_options(function: str, down: str, up: str, jpeg: int | None) -> None:
    for argument, value, known in (("down", down, DOWN_FILTERS), ("up", up, FILTERS)):
        if value not in known:
            raise ValueError(f"{function}: {argument} must be one of {', '.join(known)}, got {value!r}")
    if jpeg is not None and (isinstance(jpeg, bool) or not isinstance(jpeg, int) or not 1 <= jpeg <= 95):
        raise ValueError(f"{function}: jpeg must be None or an int from 1 to 95, got {jpeg!r}")


def _check_square(size: tuple[int, ...]) -> None:
    if len(size) != 2 or size[0] != size[1] or size[0] == 0:
        raise ValueError(f"degrade: image must be square, got {' x '.join(map(str, size))}")
