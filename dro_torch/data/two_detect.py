"""2DeteCT: measured fan-beam scans at three settings of the tube, and their references."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dro_core.checks import as_positive_integer, as_real_array, as_scalar, check_magnitude
from dro_core.types import Array
from dro_torch.data.files import SOURCES, AnyArray, fault, owned, read_tiff, swapped
from dro_torch.data.tomography import FanBeamScan

#: First slice, last slice and shift of the detector in summed pixels: it was exchanged twice.
DETECTOR_SHIFTS = ((1, 2830, 1.0), (2831, 5000, 0.0), (5521, 5870, 1.0), (5871, 6370, 0.0))
#: Views (the last one repeats the first) and detector pixels of a raw 2DeteCT sinogram.
RAW_SHAPE = (3601, 1912)
#: Transmissions below this are photon starvation and clipped.
SMALLEST_TRANSMISSION = 1e-6
#: Pixels on a side of a reference reconstruction, and millimetres of its field of view.
REFERENCE_SIZE, FIELD_MM = 1024, 1024 * 0.113797


def transmission(counts: ArrayLike, dark: ArrayLike, flat: ArrayLike) -> Array:
    r"""The share of the light that arrives: flat- and dark-corrected counts.

    .. math:: T_{vj} = \frac{I_{vj} - D_j}{F_j - D_j}

    Its expectation is :math:`e^{-p}` for line integrals p (Beer and Lambert), its variance
    :math:`e^{-p}/I_0` with :math:`I_0` photons in the open beam. Noise may make it negative or
    larger than one.

    Parameters
    ----------
    counts : (views, cells) array
        I, raw: the dark field not subtracted.
    dark, flat : (cells,) arrays
        D, without light, and F, without an object.

    Returns
    -------
    (views, cells) array

    Raises
    ------
    ValueError, TypeError
        For counts that are negative, NaN or infinite (with the first view and cell), fields that do
        not fit them, or a flat field that does not exceed the dark field.
    """
    given = {"counts": counts, "dark": dark, "flat": flat}
    raw, *fields = (as_real_array(value, name) for name, value in given.items())
    if raw.ndim != 2:
        raise ValueError(f"counts: shape {raw.shape}; needed: (views, cells)")
    for name, value in zip(given, (raw, *fields), strict=True):
        check_magnitude(value, name)
    if (raw < 0).any():
        view, cell = (int(place) for place in np.argwhere(raw < 0)[0])
        raise ValueError(
            f"counts: {int((raw < 0).sum())} are negative, the first at view {view}, cell {cell}; "
            "allowed: raw counts >= 0, the dark field not subtracted"
        )
    for field, name in zip(fields, ("dark", "flat"), strict=True):
        if field.shape != raw.shape[1:]:
            raise ValueError(f"{name}: shape {field.shape}; needed: {raw.shape[1:]}, one per cell")
    if not (fields[1] > fields[0]).all():
        cell = int(np.flatnonzero(fields[1] <= fields[0])[0])
        raise ValueError(
            f"flat: {fields[1][cell]:g} at cell {cell}, where the dark field is "
            f"{fields[0][cell]:g}; allowed: larger than that (dark and flat swapped? a dead cell?)"
        )
    return np.asarray((raw - fields[0]) / (fields[1] - fields[0]))


def shift_detector(rows: ArrayLike, shift: float) -> Array:
    """Rows of detector values read `shift` pixels further along: linear, extrapolated at the end.

    Entry j of a row becomes its value at j + shift.

    Raises
    ------
    ValueError, TypeError
        For rows that are not finite real numbers, at least two of them, or a bad shift.
    """
    values = as_real_array(rows, "rows")
    check_magnitude(values, "rows")
    if values.ndim == 0 or values.shape[-1] < 2:
        raise ValueError(f"rows: shape {values.shape}; at least two entries on the last axis")
    size = values.shape[-1]
    allowed = "a number of pixels of at most 1e6"
    pixels = as_scalar(shift, "shift", allowed)
    if abs(pixels) > 1e6:
        raise ValueError(f"shift: {pixels}; allowed: {allowed}")
    place = np.arange(size) + pixels
    left = np.clip(np.floor(place).astype(np.int64), 0, size - 2)
    share = place - left
    return np.asarray((1 - share) * values[..., left] + share * values[..., left + 1])


def load_2detect(
    folder: str | os.PathLike[str],
    slice: int,
    mode: int,
    *,
    shift: float | None = None,
    raw_shape: tuple[int, int] = RAW_SHAPE,
) -> FanBeamScan:
    r"""One measured sinogram of 2DeteCT, with the preprocessing of its authors.

    Reads ``folder/sliceNNNNN/modeM/{sinogram,dark,flat1,flat2}.tif``. With I the counts, D the dark
    field and F the mean of both flat fields, neighbouring detector pixels are summed in pairs, then

    .. math:: T_{vj} = \frac{I_{vj} - D_j}{F_j - D_j},\qquad
              p_{vj} = -\log \max(T_{v, j + s}, 10^{-6}),

    where s is the shift of the detector in summed pixels (linear interpolation); the last raw view,
    which repeats the first, is dropped and the detector axis of p reversed. View v is at angle
    :math:`\pi - 2\pi v/3600`.

    Parameters
    ----------
    folder : path
        Folder with the slices.
    slice : int
        1 to 5000 or 5521 to 6370.
    mode : 1, 2 or 3
        Acquisition mode, as in the names of the folders: the tube at 90 kV with 3 W (low dose),
        at 90 kV with 90 W (high dose), at 60 kV with 60 W and no filter (beam hardening).
    shift : float, optional
        s; by default that of the slice (`DETECTOR_SHIFTS`): 1 for slices 1 to 2830 and 5521 to
        5870, otherwise 0.
    raw_shape : pair of int
        Views, the repeated one included, and detector pixels of the raw sinogram.

    Returns
    -------
    FanBeamScan
        Sinogram (3600, 956), float32.

    Raises
    ------
    FileNotFoundError, DataFileError
        If a file is missing, damaged, of the wrong shape or with negative counts, or a detector
        pixel has a flat field that does not exceed its dark field.
    ValueError
        If the slice or the mode does not exist.

    Notes
    -----
    Source: Kiss, Coban, Batenburg, van Leeuwen, Lucka, 2DeteCT (2023), and its reference scripts;
    those keep the detector axis and turn the other way, which shows the mirror image.
    """
    place = _place(folder, slice, mode)
    shifts = [entry for first, last, entry in DETECTOR_SHIFTS if first <= slice <= last]
    offset = shifts[0] if shift is None else as_scalar(shift, "shift", "a number of pixels")
    views, pixels = (as_positive_integer(size, "raw_shape") for size in raw_shape)
    if views < 2 or pixels < 4 or pixels % 2:
        raise ValueError(f"raw_shape: {raw_shape}; at least 2 views and an even number >= 4 pixels")

    def read(name: str, rows: int) -> AnyArray:
        path = place / f"{name}.tif"
        counts = read_tiff(path, "2detect").astype(np.float64)
        if counts.shape != (rows, pixels):
            hint = swapped(counts.shape, (rows, pixels))
            raise fault(path, f"shape {counts.shape} instead of {(rows, pixels)}{hint}", "2detect")
        if (counts < 0).any():
            first = tuple(map(int, np.argwhere(counts < 0)[0]))
            raise fault(
                path,
                f"negative counts, the first ({counts[first]:g}) at (view, pixel) {first}; raw "
                "counts are needed, the dark field not subtracted",
                "2detect",
            )
        return counts[:, 0::2] + counts[:, 1::2]

    dark = read("dark", 1)
    flat = (read("flat1", 1) + read("flat2", 1)) / 2
    if not (flat > dark).all():
        pair = int(np.flatnonzero(flat <= dark)[0])
        raise fault(
            place / "flat1.tif", f"flat field <= dark field at summed pixel {pair}", "2detect"
        )
    light = transmission(read("sinogram", views), dark[0], flat[0])[:-1]
    light = shift_detector(light, offset)
    projections = -np.log(np.maximum(light, SMALLEST_TRANSMISSION))[:, ::-1]
    angles = math.pi - 2 * math.pi * np.arange(views - 1) / (views - 1)
    return FanBeamScan(
        torch.from_numpy(owned(projections.astype(np.float32))),
        torch.from_numpy(angles),
        source_origin_mm=431.019989,
        source_detector_mm=529.000488,
        detector_pixel_mm=2 * 0.0748,
        image_size=1024,
        image_pixel_mm=0.113797,
    )


def slices_2detect(folder: str | os.PathLike[str]) -> tuple[int, ...]:
    """Numbers of the 2DeteCT slices that lie in a folder, increasing.

    Folders ``sliceNNNNN`` with five digits are counted, whatever is in them; other names are left
    alone unless they begin with "slice".

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or no slice in it.
    DataFileError
        If a folder is called slice and something else than five digits.
    """
    place = Path(folder)
    if not place.is_dir():
        raise FileNotFoundError(f"folder: {place} is not a folder")
    numbers = []
    for entry in sorted(place.glob("slice*")):
        if not entry.is_dir():
            continue
        if not re.fullmatch(r"slice\d{5}", entry.name):
            raise fault(entry, "the name is not slice and five digits (slice00001)", "2detect")
        numbers.append(int(entry.name.removeprefix("slice")))
    if not numbers:
        raise FileNotFoundError(
            f"{place}: no folders sliceNNNNN; put them there from: {SOURCES['2detect']}"
        )
    return tuple(numbers)


def reference_2detect(
    folder: str | os.PathLike[str], slice: int, mode: int = 2, *, size: int = REFERENCE_SIZE
) -> Tensor:
    r"""A reference reconstruction of 2DeteCT, as `load_2detect` sees the slice.

    Reads ``folder/sliceNNNNN/modeM/reconstruction.tif`` of the archives with the references (not
    those with the sinograms). Its values are attenuation per pixel and become attenuation per
    millimetre; the image is mirrored (rows in reverse order), because the authors' scripts keep
    the detector axis that `load_2detect` reverses, and moved by the pixel in both directions by
    which those scripts cut it off the axis of rotation.

    Parameters
    ----------
    folder : path
        Folder with the slices.
    slice : int
        1 to 5000 or 5521 to 6370.
    mode : 1, 2 or 3
        Acquisition mode; 2 is the one of high dose.
    size : int
        Pixels per side of the file, on the same 116.5 mm.

    Returns
    -------
    Tensor (size, size)
        Attenuation in 1/mm, float32.

    Raises
    ------
    FileNotFoundError, DataFileError
        If the file is missing, damaged or of another shape.
    ValueError
        If the slice or the mode does not exist.

    Notes
    -----
    Source: ``Reconstructions_2DeteCT.py`` of the authors: accelerated gradient descent, values
    >= 0.
    """
    path = _place(folder, slice, mode) / "reconstruction.tif"
    image = read_tiff(path, "2detect-references").astype(np.float32)
    pixels = as_positive_integer(size, "size")
    if image.shape != (pixels, pixels):
        what = f"shape {image.shape} instead of {(pixels, pixels)}"
        raise fault(path, what, "2detect-references")
    centred = np.pad(image[1:, 1:], ((0, 1), (0, 1)), mode="edge")
    return torch.from_numpy(owned(centred[::-1] * (pixels / FIELD_MM)))


def _place(folder: str | os.PathLike[str], slice: int, mode: int) -> Path:
    """Where a slice lies at a mode, both checked."""
    number = as_positive_integer(slice, "slice")
    if not any(first <= number <= last for first, last, _ in DETECTOR_SHIFTS):
        raise ValueError(f"slice: {number}; allowed: 1 to 5000 and 5521 to 6370")
    if as_positive_integer(mode, "mode") > 3:
        raise ValueError(f"mode: {mode}; allowed: 1, 2, 3")
    return Path(folder) / f"slice{number:05d}" / f"mode{mode}"
