"""The degradation operator: what an image of side S keeps when it is seen at side r."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

ImageOrTensor = TypeVar("ImageOrTensor", "Image", Tensor)

FILTERS = ("bilinear", "bicubic")


def degrade(image: ImageOrTensor, r: int, *, down: str = "bilinear", up: str = "bilinear") -> ImageOrTensor:
    """Return the image reduced to r x r and enlarged again to its own side S.

    Down with antialiasing, rounded to 8 bit, up to S x S; r >= S returns the image as it is. Deterministic. A PIL image
    and the tensor of the same image give results at most one grey level apart (two with ``up="bicubic"``, which
    overshoots): both filter first along rows, then along columns, with 8-bit rounding after each pass.

    Args:
        image: a square PIL image of mode RGB or L, or a uint8 tensor ``[C, S, S]`` or ``[N, C, S, S]``.
        r: side in pixels, at least 1.
        down: ``"bilinear"`` or ``"bicubic"``.
        up: ``"bilinear"`` or ``"bicubic"``.

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
    for argument, value in (("down", down), ("up", up)):
        if value not in FILTERS:
            raise ValueError(f"degrade: {argument} must be one of {', '.join(FILTERS)}, got {value!r}")
    if isinstance(image, Tensor):
        _check_square(tuple(image.shape[-2:]))
        if image.dtype != torch.uint8 or image.ndim not in (3, 4):
            raise ValueError(
                f"degrade: image must be a uint8 tensor [C, S, S] or [N, C, S, S], "
                f"got {image.dtype} {list(image.shape)}"
            )
        side = image.shape[-1]
        return image if r >= side else resize_uint8(resize_uint8(image, (r, r), down), (side, side), up)
    return _degrade_pil(image, r, down, up)


def degrade_settings(*, down: str = "bilinear", up: str = "bilinear") -> dict[str, Any]:
    """Return what a run must record about the operator, as plain data."""
    return {"down": f"{down}, antialiased", "rounding": "uint8 after each pass", "up": up, "torch": torch.__version__}


def resize_uint8(images: Tensor, size: tuple[int, int], mode: str = "bilinear") -> Tensor:
    """Resize uint8 images ``[C, H, W]`` or ``[N, C, H, W]`` with antialiasing, as Pillow does.

    On the CPU this is torch's own 8-bit kernel. Elsewhere the same two passes, along rows and along columns, are done
    in float32 and rounded to 8 bit after each.
    """
    batch = images if images.ndim == 4 else images[None]
    if batch.numel() == 0:
        out = batch.new_empty((*batch.shape[:2], *size))
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


def _degrade_pil(image: Any, r: int, down: str, up: str) -> Any:
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
    return image if r >= image.width else image.resize((r, r), filters[down]).resize(image.size, filters[up])


def _check_square(size: tuple[int, ...]) -> None:
    if len(size) != 2 or size[0] != size[1] or size[0] == 0:
        raise ValueError(f"degrade: image must be square, got {' x '.join(map(str, size))}")
