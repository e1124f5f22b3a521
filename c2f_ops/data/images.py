"""Labelled images with a hierarchy: decoding, resizing, and what to do with images that cannot be read."""

from __future__ import annotations

import copy
import io
import os
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..hierarchy import Hierarchy
from .degrade import resize_uint8

if TYPE_CHECKING:
    from PIL.Image import Image

    from .taxonomies import Taxonomies

T = TypeVar("T")

CORRUPT_POLICIES = ("raise", "skip", "substitute")
RESIZE_MODES = ("shorter", "squash")


class ImageSource(Protocol):
    """What :class:`LabeledImages` reads from: item i is an encoded image, or a uint8 tensor ``[3, H, W]``."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> bytes | Tensor: ...


class FileSource:
    """Encoded images in files."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> bytes:
        return self.paths[index].read_bytes()


class ZipSource:
    """Encoded images in a zip file, opened once per process: forked workers must not share a file position."""

    def __init__(self, path: Path, members: Sequence[str]) -> None:
        self.path, self.members = path, list(members)
        self._archive: zipfile.ZipFile | None = None
        self._owner = 0

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> bytes:
        if self._archive is None or self._owner != os.getpid():
            self._archive, self._owner = zipfile.ZipFile(self.path), os.getpid()
        return self._archive.read(self.members[index])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_archive": None}


class LabeledImages(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Images with labels over a hierarchy.

    Args:
        name, split: for records.
        hierarchy: the tree of the labels.
        labels: integers ``[N, K]``, coarse to fine, -1 for unknown.
        ids: N strings that name the images in messages and records.
        images: N encoded images or uint8 tensors ``[3, H, W]``, for instance a tensor ``[N, 3, H, W]``.
        size: side of the images given out; None leaves them as they are.
        resize_mode: ``"shorter"`` scales the shorter side to ``size`` and crops the centre, ``"squash"`` changes the
            aspect.
        corrupt: what to do with an image that cannot be read. ``"raise"``: raise when it is asked for. ``"skip"``:
            leave it out. ``"substitute"``: give out the next readable image with the same labels in its place. The last
            two decode every image once on construction, so that length, labels and :attr:`corrupt` are settled at once.
        taxonomies: coarse labels of the N images under several taxonomies, where there are several.

    Attributes:
        labels: LongTensor ``[N, K]``, filled and validated.
        ids: list of N strings.
        corrupt: list of (id, reason) of the images that were skipped or substituted.
        taxonomies: as given, in step with the items.
    """

    def __init__(
        self,
        name: str,
        split: str,
        hierarchy: Hierarchy,
        labels: Any,
        ids: Sequence[str],
        images: ImageSource | Tensor,
        *,
        size: int | None = None,
        resize_mode: str = "shorter",
        corrupt: str = "raise",
        taxonomies: Taxonomies | None = None,
    ) -> None:
        if corrupt not in CORRUPT_POLICIES:
            raise ValueError(f"LabeledImages: corrupt must be one of {', '.join(CORRUPT_POLICIES)}, got {corrupt!r}")
        _check_resize("LabeledImages", size, resize_mode)
        labels = hierarchy.validate_labels(labels)
        if not len(labels) == len(ids) == len(images):
            raise ValueError(
                "LabeledImages: labels, ids and images must have one length, "
                f"got {len(labels)}, {len(ids)}, {len(images)}"
            )
        self.name, self.split, self.hierarchy = name, split, hierarchy
        self.labels, self.ids = labels, list(ids)
        self.size, self.resize_mode = size, resize_mode
        self.corrupt: list[tuple[str, str]] = []
        self.taxonomies = taxonomies
        self._images = images
        self._index = list(range(len(images)))  # position in images of each item
        if corrupt != "raise":
            self._settle_corrupt(corrupt)
        hierarchy.validate_labels(self.labels, training=split == "train")

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the image, uint8 ``[3, H, W]``, and its labels, LongTensor ``[K]``."""
        return self._image(index, self.size, self.resize_mode), self.labels[index]

    def encoded(self, index: int) -> bytes | Tensor:
        """Return what an item is read from: the bytes of its file, or the tensor of its pixels."""
        return self._images[self._index[index]]

    def stacked(self, size: int | None = None, *, resize_mode: str | None = None, threads: int | None = None) -> Tensor:
        """Decode all images into one uint8 tensor ``[N, 3, size, size]``; by default at the size of the data set.

        The result does not depend on ``threads``, which decode side by side; None: as many as torch uses.
        """
        size = self.size if size is None else size
        resize_mode = self.resize_mode if resize_mode is None else resize_mode
        _check_resize("LabeledImages.stacked", size, resize_mode)
        if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
            raise ValueError(f"LabeledImages.stacked: threads must be a positive int or None, got {threads!r}")
        if isinstance(self._images, Tensor):
            return resize_image(self._images[self._index], size, mode=resize_mode)
        if size is None:
            raise ValueError(f"LabeledImages.stacked: size must be given, as {self.name} has none of its own")
        out = torch.empty((len(self), 3, size, size), dtype=torch.uint8)

        def fill(i: int) -> None:
            out[i] = self._image(i, size, resize_mode)

        in_threads(fill, len(self), threads)
        return out

    def subset(self, indices: Sequence[int] | Tensor) -> LabeledImages:
        """Return the data set of these items, in this order; images are shared, not copied."""
        chosen = torch.as_tensor(indices, dtype=torch.long).tolist()
        part = copy.copy(self)
        part.labels, part.ids = self.labels[chosen], [self.ids[i] for i in chosen]
        part._index = [self._index[i] for i in chosen]
        part.taxonomies = self.taxonomies and self.taxonomies.subset(chosen)
        return part

    def __repr__(self) -> str:
        corrupt = f", {len(self.corrupt)} corrupt" if self.corrupt else ""
        return f"LabeledImages({self.name}, {self.split}, {len(self)} images{corrupt}, {self.hierarchy!r})"

    def _image(self, index: int, size: int | None, resize_mode: str) -> Tensor:
        return resize_image(self._read(self._index[index], self.ids[index]), size, mode=resize_mode)

    def _read(self, position: int, image_id: str) -> Tensor:
        try:
            encoded = self._images[position]
            return encoded if isinstance(encoded, Tensor) else decode_image(encoded)
        except ImportError:
            raise
        except Exception as error:  # Pillow's decoders and zip files raise many types for broken input
            raise ValueError(
                f"LabeledImages: image {image_id} of {self.name} must be readable, got {reason_of(error)}"
            ) from error

    def _settle_corrupt(self, policy: str) -> None:
        def reason(i: int) -> str | None:
            try:
                self._read(i, self.ids[i])
            except ValueError as error:
                return reason_of(error.__cause__)
            return None

        reasons = in_threads(reason, len(self))
        readable = [i for i, reason in enumerate(reasons) if reason is None]
        self.corrupt = [(i, reason) for i, reason in zip(self.ids, reasons, strict=True) if reason is not None]
        if not self.corrupt:
            return
        if not readable:
            raise ValueError(f"LabeledImages: {self.name} must have a readable image, got {self.corrupt[0]}")
        if policy == "skip":
            self._index = readable
            self.labels = self.labels[readable]
            self.ids = [self.ids[i] for i in readable]
            self.taxonomies = self.taxonomies and self.taxonomies.subset(readable)
            return
        same: dict[tuple[int, ...], list[int]] = {}
        for i in readable:
            same.setdefault(tuple(self.labels[i].tolist()), []).append(i)
        for i in sorted(set(self._index) - set(readable)):
            candidates = same.get(tuple(self.labels[i].tolist()))
            if candidates is None:
                raise ValueError(f"LabeledImages: image {self.ids[i]} must have a readable one of its class, got none")
            self._index[i] = next((j for j in candidates if j > i), candidates[0])


def in_threads(function: Callable[[int], T], count: int, threads: int | None = None) -> list[T]:
    """Return ``function(0)``, ``function(1)``, ... of ``count`` calls, each on one thread, ``threads`` side by side.

    Pillow's decoders and torch release the GIL. What torch does meanwhile with threads of its own would be slower: its
    share of one small image is less work than waking them.
    """
    before = torch.get_num_threads()
    threads = before if threads is None else threads
    torch.set_num_threads(1)
    try:
        if min(threads, count) <= 1:
            return [function(i) for i in range(count)]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(function, range(count)))
    finally:
        torch.set_num_threads(before)


def reason_of(error: BaseException | None) -> str:
    """Say in one line why an image cannot be read."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def open_image(encoded: bytes) -> Image:
    """Open an encoded image with Pillow, its pixels not decoded yet."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise ImportError('decode_image: Pillow is not installed; pip install "c2f_ops[train]"') from None
    try:
        return Image.open(io.BytesIO(encoded))
    except UnidentifiedImageError:  # whose message has an address in memory
        raise ValueError(f"{len(encoded)} bytes that are no image of a format that Pillow knows") from None


def has_16_bits(image: Image) -> bool:
    """Whether grey values go to 65535; older versions of Pillow call such PNG files 32-bit integers."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def decode_image(encoded: bytes) -> Tensor:
    """Decode JPEG, PNG, WebP, ... to uint8 ``[3, H, W]``, RGB.

    Of 16 bits the upper 8 are kept, of an animation the first frame; what is transparent shows its colour. CMYK is
    converted without a colour profile.

    Raises:
        ValueError: no image, or values without a known range (32-bit integers, floats).
        Exception: other types that Pillow's decoders raise for broken images.
    """
    with open_image(encoded) as image:
        if has_16_bits(image):  # convert("RGB") would make 255 of all values above it
            pixels = np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
        elif image.mode in ("I", "F"):
            raise ValueError(f"decode_image: encoded must have 8 or 16 bits per value, got Pillow's mode {image.mode}")
        else:
            # Through RGBA, as Pillow warns of transparent colours in a palette.
            through = image.convert("RGBA") if image.mode == "P" else image
            pixels = np.asarray(through.convert("RGB"))
    # NumPy copies on one thread: torch's pool costs more here.
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def resize_image(image: Tensor, size: int | None, *, mode: str = "shorter") -> Tensor:
    """Resize uint8 ``[..., H, W]`` to ``[..., size, size]``, bilinear with antialiasing; see :class:`LabeledImages`."""
    _check_resize("resize_image", size, mode, argument="mode")
    if size is None:
        return image
    height, width = image.shape[-2:]
    if mode == "shorter":
        scale = size / min(height, width)
        resized = (size, round(width * scale)) if height <= width else (round(height * scale), size)
    else:
        resized = (size, size)
    if resized != (height, width):
        image = resize_uint8(image, resized)
    top, left = (resized[0] - size) // 2, (resized[1] - size) // 2
    return image[..., top : top + size, left : left + size]


def _check_resize(function: str, size: int | None, mode: str, *, argument: str = "resize_mode") -> None:
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ValueError(f"{function}: size must be a positive int or None, got {size!r}")
    if mode not in RESIZE_MODES:
        raise ValueError(f"{function}: {argument} must be one of {', '.join(RESIZE_MODES)}, got {mode!r}")
