"""Images that are broken or odd, one of each kind, and whether they can be read."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

SIZE = (96, 64)


class Kind(NamedTuple):
    """A file name, and whether the image in it can be read."""

    file: str
    readable: bool


KINDS = {
    "empty": Kind("empty.jpg", False),
    "one byte": Kind("one_byte.jpg", False),
    "text": Kind("text.jpg", False),
    "HTML": Kind("html.jpg", False),
    "JPEG cut at 10 %": Kind("cut10.jpg", False),
    "JPEG cut at 50 %": Kind("cut50.jpg", False),
    "JPEG cut at 99 %": Kind("cut99.jpg", False),
    "flipped header": Kind("header.jpg", False),
    "bit flips in JPEG scan data": Kind("flips.jpg", True),  # JPEG has no check sum: other pixels, and no error
    "PNG named .jpg": Kind("png.jpg", True),
    "garbage after the end": Kind("tail.jpg", True),
    "animated GIF": Kind("animation.gif", True),
    "palette with transparency": Kind("palette.png", True),
    "CMYK": Kind("cmyk.jpg", True),
    "16-bit grey PNG": Kind("grey16.png", True),
    "16-bit colour PNG": Kind("colour16.png", True),
    "32-bit integer TIFF": Kind("int32.tiff", False),
    "32-bit float TIFF": Kind("float.tiff", False),
    "decompression bomb": Kind("bomb.png", False),
    "PNG of 0 x 0": Kind("zero.png", False),
    "PNG with a bad check sum": Kind("checksum.png", False),
    "PNG cut at 50 %": Kind("cut50.png", False),
    "WebP cut at 50 %": Kind("cut50.webp", False),
    "SVG": Kind("drawing.svg", False),
    "folder named .jpg": Kind("folder.jpg", False),
    "no permission to read": Kind("forbidden.jpg", False),
    "dangling link": Kind("dangling.jpg", False),
}


def picture() -> Image:
    """A small smooth picture, which formats with losses keep nearly as it is."""
    from PIL import Image

    x, y = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    waves = [np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 11)]
    return Image.fromarray((128 + 100 * np.stack(waves, axis=2)).astype(np.uint8))


def ramp() -> np.ndarray:
    """Grey values of 16 bits, uint16 ``[64, 96]``, from 0 to 65535."""
    return np.linspace(0, 65535, SIZE[0] * SIZE[1]).reshape(SIZE[::-1]).astype(np.uint16)


def encode(image: Image, kind: str, **options: Any) -> bytes:
    """Bytes of the image in a format."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, bits: int, rows: bytes) -> bytes:
    """An RGB PNG with these rows, each after its filter byte, whatever the header says."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, data) for name, data in parts)


def flip_bits(data: bytes, start: int, stop: int, count: int) -> bytes:
    """Flip so many bits of the bytes from ``start`` to ``stop``."""
    flipped, rng = bytearray(data), random.Random(0)
    for _ in range(count):
        flipped[rng.randrange(start, stop)] ^= 1 << rng.randrange(8)
    return bytes(flipped)


def contents() -> dict[str, bytes]:
    """Bytes of the kinds that are files."""
    from PIL import Image

    image = picture()
    jpeg, whole, webp = encode(image, "JPEG", quality=90), encode(image, "PNG"), encode(image, "WEBP")
    scan, data = jpeg.index(b"\xff\xda") + 14, whole.index(b"IDAT") + 4
    colour = np.repeat(ramp()[..., None], 3, axis=2).astype(">u2")
    return {
        "empty": b"",
        "one byte": b"\xff",
        "text": b"To do: photograph this bird.\n",
        "HTML": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        **{f"JPEG cut at {share} %": jpeg[: len(jpeg) * share // 100] for share in (10, 50, 99)},
        "flipped header": bytes(255 - byte for byte in jpeg[:4]) + jpeg[4:],
        "bit flips in JPEG scan data": flip_bits(jpeg, scan, len(jpeg) - 2, 3),
        "PNG named .jpg": whole,
        "garbage after the end": jpeg + random.Random(0).randbytes(500),
        "animated GIF": encode(image, "GIF", save_all=True, append_images=[image.rotate(180)]),
        "palette with transparency": encode(image.quantize(128), "PNG", transparency=bytes(range(16))),
        "CMYK": encode(image.convert("CMYK"), "JPEG"),
        "16-bit grey PNG": encode(Image.fromarray(ramp()), "PNG"),
        "16-bit colour PNG": png(*SIZE, 16, b"".join(b"\0" + row.tobytes() for row in colour)),
        "32-bit integer TIFF": encode(Image.fromarray(ramp().astype(np.int32)), "TIFF"),
        "32-bit float TIFF": encode(Image.fromarray(ramp().astype(np.float32)), "TIFF"),
        "decompression bomb": png(60_000, 60_000, 8, bytes(100)),
        "PNG of 0 x 0": png(0, 0, 8, b""),
        "PNG with a bad check sum": flip_bits(whole, data + 10, data + 11, 1),
        "PNG cut at 50 %": whole[: len(whole) // 2],
        "WebP cut at 50 %": webp[: len(webp) // 2],
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>',
    }


def write(folder: Path) -> dict[str, Path]:
    """Write one of each kind into a folder; return their paths."""
    paths = {kind: folder / file for kind, (file, _) in KINDS.items()}
    for kind, data in contents().items():
        paths[kind].write_bytes(data)
    paths["folder named .jpg"].mkdir()
    paths["no permission to read"].write_bytes(encode(picture(), "JPEG"))
    paths["no permission to read"].chmod(0)
    paths["dangling link"].symlink_to(folder / "nowhere.jpg")
    return paths
