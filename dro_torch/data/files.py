"""Data roots, and readers of IDX, .npz and TIFF files that refuse what is damaged."""

from __future__ import annotations

import gzip
import math
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from dro_core.checks import unknown
from dro_core.optional import needed

#: Where files come from, for the messages about them.
SOURCES = {
    "mnist": "the four IDX files of MNIST (yann.lecun.com/exdb/mnist or a mirror), gzipped or not",
    "cifar10": "https://www.cs.toronto.edu/~kriz/cifar.html (cifar-10-binary.tar.gz, unpacked)",
    "cifar10-python": "https://www.cs.toronto.edu/~kriz/cifar.html (cifar-10-python.tar.gz, "
    "unpacked)",
    "npz": "an .npz file of the project's data root; its arrays are listed in docs/data.md",
    "2detect": "doi:10.5281/zenodo.8014757 and its continuations (2DeteCT, raw archives)",
    "2detect-references": "doi:10.5281/zenodo.8017582 and its continuations (2DeteCT, archives of "
    "reference reconstructions)",
}


class DataFileError(ValueError):
    """A data file that is damaged, or not what its name says."""


def fault(path: Path, what: str, source: str) -> DataFileError:
    return DataFileError(f"{path}: {what}; replace it by a good copy of {SOURCES[source]}")


def data_root(argument: str | os.PathLike[str] | None = None) -> Path:
    """The folder with the data: `argument`, or else the environment variable ``DRO_DATA``.

    Raises
    ------
    FileNotFoundError
        If neither is given, or the folder does not exist.
    """
    given = os.environ.get("DRO_DATA") if argument is None else argument
    if not given:
        raise FileNotFoundError(
            "root: no data root; pass one (root=..., on the command line --data ...), or set the "
            "environment variable DRO_DATA to the folder with the data (docs/data.md says what "
            "lies where)"
        )
    root = Path(given).expanduser()
    if not root.is_dir():
        name = "DRO_DATA" if argument is None else "root (--data)"
        raise FileNotFoundError(f"{name}: {root} is not a folder")
    return root


def existing(path: Path, source: str, *others: Path) -> Path:
    """The first of these files that exists."""
    for candidate in (path, *others):
        if candidate.is_file():
            return candidate
    also = "".join(f" (or {other.name})" for other in others)
    raise FileNotFoundError(f"{path}{also}: not found; put it there from: {SOURCES[source]}")


def check_option(name: str, value: str, known: Sequence[str]) -> None:
    if not isinstance(value, str) or value not in known:
        raise ValueError(unknown(name, value, known))


#: An array of any dtype and number of axes.
AnyArray = np.ndarray[Any, np.dtype[Any]]
_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def owned(array: AnyArray) -> AnyArray:
    """A writable, contiguous copy in the byte order of this machine, as torch needs it."""
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C")


def read_idx(path: str | os.PathLike[str]) -> AnyArray:
    """The array in an IDX file (MNIST's format), gzipped if the name ends in ``.gz``.

    Returns
    -------
    ndarray
        uint8, int8, int16, int32, float32 or float64, as the file says; native, writable and
        contiguous.

    Raises
    ------
    FileNotFoundError, DataFileError
        If there is no such file, or its magic number, sizes or length are wrong.
    """
    path = existing(Path(path), "mnist")
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise fault(path, f"cannot be decompressed ({error})", "mnist") from None
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_TYPES:
        raise fault(path, f"magic number {content[:4].hex()!r} is not that of an IDX file", "mnist")
    axes, dtype = content[3], np.dtype(_IDX_TYPES[content[2]])
    header = 4 * (1 + axes)
    if axes == 0 or len(content) < header:
        raise fault(path, f"ends inside the header of {axes} axes", "mnist")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", axes, 4))
    expected = header + dtype.itemsize * math.prod(shape)
    if len(content) != expected:
        state = "truncated" if len(content) < expected else "too long"
        raise fault(
            path, f"{state}: {len(content)} bytes, but shape {shape} needs {expected}", "mnist"
        )
    return owned(np.frombuffer(content, dtype, offset=header).reshape(shape))


def read_npz(
    path: Path, arrays: Mapping[str, tuple[str, tuple[int | str, ...]]]
) -> dict[str, AnyArray]:
    """Arrays of an .npz file without pickles: name -> (kinds of dtype, shape with named sizes).

    Whatever the file's byte order and memory order, the arrays are native and contiguous.
    """
    path = existing(path, "npz")
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("not a zip archive, or truncated")
        with np.load(path, allow_pickle=False) as archive:
            missing = sorted(set(arrays) - set(archive.files))
            if missing:
                raise ValueError(f"no array {missing[0]!r}, only {', '.join(archive.files)}")
            found = {name: owned(archive[name]) for name in arrays}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise fault(path, f"cannot be read as .npz ({error})", "npz") from None
    sizes: dict[str, int] = {}
    for name, (kinds, shape) in arrays.items():
        array = found[name]
        if array.dtype.kind not in kinds:
            raise fault(path, f"array {name!r} has dtype {array.dtype}", "npz")
        known = dict(sizes)
        expected = tuple(
            sizes.setdefault(size, given) if isinstance(size, str) else size
            for size, given in zip(shape, array.shape, strict=False)
        )
        if array.ndim != len(shape) or array.shape != expected:
            needed = [known.get(size, size) if isinstance(size, str) else size for size in shape]
            what = f"array {name!r} has shape {array.shape}, not ({', '.join(map(str, needed))})"
            raise fault(path, what + swapped(array.shape, needed), "npz")
    return found


def swapped(given: Sequence[int], needed: Sequence[int | str]) -> str:
    """A hint for an error, if the shape fits after its two axes change places; names fit all."""
    pairs = list(zip(given[::-1], needed, strict=False))
    fits = all(isinstance(want, str) or want == have for have, want in pairs)
    told = any(isinstance(want, int) for want in needed)
    return " (axes swapped?)" if len(given) == len(needed) == 2 and fits and told else ""


def read_tiff(path: Path, source: str) -> AnyArray:
    """A single-page grey-scale TIFF image of integers or floats: native, writable, contiguous.

    By Pillow, which reads unsigned integers of 32 bits as signed ones; floats of 64 bits, which it
    does not know, by `_float64_tiff`.
    """
    image_module = pillow()
    path = existing(path, source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about tags; pixels are checked below
            array = _float64_tiff(path, source)
            if array is None:
                with image_module.open(path, formats=("TIFF",)) as image:
                    if getattr(image, "n_frames", 1) != 1 or len(image.getbands()) != 1:
                        raise fault(path, "more than one page or channel", source)
                    array = np.asarray(image)
    except (OSError, SyntaxError, EOFError, KeyError, TypeError, OverflowError) as error:
        raise fault(path, f"cannot be read as TIFF ({error})", source) from None
    if array.ndim != 2 or array.dtype.kind not in "uif":
        raise fault(path, f"array of shape {array.shape} and dtype {array.dtype}", source)
    if not np.isfinite(array).all():
        raise fault(path, "NaN or infinite entries", source)
    return owned(array)


#: TIFF tags, by their numbers in the TIFF 6.0 specification.
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _OFFSETS, _CHANNELS, _COUNTS, _FORMAT = (
    256,
    257,
    258,
    259,
    273,
    277,
    279,
    339,
)


def _float64_tiff(path: Path, source: str) -> AnyArray | None:
    """The pixels of an uncompressed image of 64-bit floats in strips; None for any other file."""
    plugin = needed("PIL.TiffImagePlugin", "reading TIFF files")

    with path.open("rb") as file:
        try:
            tags = plugin.ImageFileDirectory_v2(file.read(8))
            file.seek(tags.next)
            tags.load(file)
        except (OSError, SyntaxError, struct.error):
            return None  # Pillow says what is wrong
        if tags.get(_BITS) != (64,) or tags.get(_FORMAT) != (3,):
            return None
        if tags.next or tags.get(_CHANNELS, 1) != 1:
            raise fault(path, "more than one page or channel", source)
        if tags.get(_COMPRESSION, 1) != 1 or _OFFSETS not in tags:
            raise fault(
                path,
                "64-bit floats that are compressed or in tiles; store them as 32-bit floats, or "
                "uncompressed in strips",
                source,
            )
        strips = []
        for start, count in zip(tags[_OFFSETS], tags[_COUNTS], strict=False):
            file.seek(start)
            strips.append(file.read(count))
    pixels, shape = b"".join(strips), (tags[_HEIGHT], tags[_WIDTH])
    if len(pixels) != 8 * math.prod(shape):
        raise fault(path, f"truncated: {len(pixels)} bytes for shape {shape}", source)
    order = "<" if tags.prefix == b"II" else ">"
    return np.frombuffer(pixels, order + "f8").reshape(shape)


def pillow() -> ModuleType:
    """Pillow's module of images; the error of its absence names the extra."""
    return needed("PIL.Image", "reading JPEG and TIFF files")
