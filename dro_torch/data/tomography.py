"""Computed tomography: CT slices, and measured fan-beam scans; those of HTC2022."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dro_core.checks import (
    as_positive,
    unknown,
)
from dro_core.described import Drawn
from dro_torch.data.files import (
    AnyArray,
    check_option,
    data_root,
    fault,
    read_npz,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Patients of `ct_slices` that are held out for validation.
CT_VALIDATION_PATIENTS = ("A046441", "A056642", "A062055", "A072894")
#: Attenuation of water in 1/mm, of `ct_slices`.
WATER_ATTENUATION = 0.0192


@dataclass(frozen=True, repr=False)
class CTSlices(Drawn):
    """Axial CT slices.

    Attributes
    ----------
    images : (N, 1, height, width) float32 tensor
        In the units that were asked for.
    patients : tuple of str
        Patient of every slice; slices of one patient are not independent.
    pixel_mm : (N,) float32 tensor
        Side of a pixel.
    """

    images: Tensor
    patients: tuple[str, ...]
    pixel_mm: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def _draw(self, ax: Axes) -> None:
        """The first slice, in millimetres."""
        image, side = self.images[0, 0].numpy(), float(self.pixel_mm[0])
        height, width = image.shape
        ax.imshow(image, cmap="gray", extent=(0.0, width * side, height * side, 0.0))
        ax.set_title(f"patient {self.patients[0]}")
        ax.set_xlabel("mm")
        ax.set_ylabel("mm")


def ct_slices(
    split: str = "train",
    root: str | os.PathLike[str] | None = None,
    units: str = "unit",
    validation_patients: Sequence[str] = CT_VALIDATION_PATIENTS,
) -> CTSlices:
    r"""CT slices from ``ct_axial_hu256.npz``, split by patient.

    Parameters
    ----------
    split : "train", "validation" or "test"
        No patient is in two of them; the file says who is in the test split.
    root : path, optional
        Data root, see `data_root`.
    units : "unit", "attenuation" or "HU"
        Values h as stored (Hounsfield units: air is -1000, water 0; signed integers or floats), as
        (h + 1000)/2000 clipped to [0, 1], or as linear attenuation
        :math:`\mu = 0.0192\,(1 + h/1000)` per mm, not below 0.
    validation_patients : sequence of str
        Patients who are in the validation split instead of the training split.

    Raises
    ------
    FileNotFoundError, DataFileError
        If the file is missing or damaged, or has a patient on both sides; if its values are not
        finite, or none is below zero (stored with an offset, DICOM's rescale intercept, or not in
        Hounsfield units: which, cannot be told from the file).
    ValueError
        If a validation patient is unknown or in the test split, or a split is empty.
    """
    check_option("split", split, ("train", "validation", "test"))
    check_option("units", units, ("unit", "attenuation", "HU"))
    path = data_root(root) / "ct_axial_hu256.npz"
    found = read_npz(
        path,
        {
            "hu": ("iuf", ("N", "S", "S")),
            "patient": ("U", ("N",)),
            "pixel_mm": ("f", ("N",)),
            "is_test": ("b", ("N",)),
        },
    )
    _check_hounsfield(path, found["hu"])
    patient, is_test = found["patient"], found["is_test"]
    tested, learned = set(patient[is_test].tolist()), set(patient[~is_test].tolist())
    if tested & learned:
        raise fault(path, f"patient {min(tested & learned)} is in both splits", "npz")
    for name in validation_patients:
        if name not in learned:
            raise ValueError(unknown("validation_patients", name, sorted(learned)))
    validated = np.isin(patient, list(validation_patients))
    kept = {"train": ~is_test & ~validated, "validation": validated, "test": is_test}[split]
    if not kept.any():
        raise ValueError(f"split: no slices in {split!r} with these validation_patients")
    if not (found["pixel_mm"] > 0).all():
        raise fault(path, "pixel_mm is not positive", "npz")
    hu = found["hu"][kept][:, None].astype(np.float32)
    if units == "unit":
        hu = np.clip((hu + 1000) / 2000, 0, 1)
    elif units == "attenuation":
        hu = np.maximum(np.float32(WATER_ATTENUATION) * (1 + hu / 1000), 0)
    pixel = found["pixel_mm"][kept].astype(np.float32)
    return CTSlices(torch.from_numpy(hu), tuple(patient[kept].tolist()), torch.from_numpy(pixel))


def _check_hounsfield(path: Path, hu: AnyArray) -> None:
    """Refuse values that are not Hounsfield units, in which air is -1000."""
    remedy = (
        "Hounsfield units go below zero (air is -1000); undo the offset that the values were "
        "stored with (often 1024; in DICOM files the rescale intercept) and store signed ones"
    )
    if hu.dtype.kind == "u":
        raise fault(path, f"array 'hu' has dtype {hu.dtype}, but {remedy}", "npz")
    if not np.isfinite(hu).all():
        raise fault(path, "array 'hu' has NaN or infinite entries", "npz")
    if hu.size and hu.min() >= 0:
        raise fault(path, f"array 'hu' has no entry below zero, but {remedy}", "npz")


@dataclass(frozen=True, repr=False)
class FanBeamScan(Drawn):
    """A measured fan-beam scan: line integrals and everything needed to reconstruct from them.

    Attributes
    ----------
    sinogram : (views, detector pixels) float32 tensor
        Line integrals of the attenuation.
    angles : (views,) float64 tensor
        In radians; the convention is in the docstring of the function that loaded the scan.
    source_origin_mm, source_detector_mm : float
        Distances of the source from the centre of rotation and from the detector.
    detector_pixel_mm : float
        Pitch of the flat detector, whose middle lies opposite the source.
    image_size : int
        Pixels on a side of the usual reconstruction.
    image_pixel_mm : float
        Their side.
    mask : (size, size) bool tensor or None
        Ground truth: where the material is.
    reference : (size, size) float32 tensor or None
        A reference reconstruction.
    """

    sinogram: Tensor
    angles: Tensor
    source_origin_mm: float
    source_detector_mm: float
    detector_pixel_mm: float
    image_size: int
    image_pixel_mm: float
    mask: Tensor | None = None
    reference: Tensor | None = None

    def _draw(self, ax: Axes) -> None:
        """The sinogram."""
        ax.imshow(self.sinogram.numpy(), cmap="gray", aspect="auto")
        ax.set_xlabel("detector pixel")
        ax.set_ylabel(f"view, {len(self.angles)} of them")


def htc2022(name: str = "tb", root: str | os.PathLike[str] | None = None) -> FanBeamScan:
    r"""A measured sinogram of the Helsinki Tomography Challenge 2022.

    Reads ``htc2022_real_sinograms.npz``. `FanBeamGeometry.from_scan` is its geometry: sinogram,
    angles (radians; the file has degrees), `mask` and `reference` fit each other as they are.

    Parameters
    ----------
    name : "tb", "ta" or "solid_disc"
        Phantom tb (549 views over 279 degrees), ta (121 over 60), or the solid disc (61 over 30).
    root : path, optional
        Data root, see `data_root`.

    Returns
    -------
    FanBeamScan
        With `mask` for the phantoms and `reference` (an FBP from all views) for the solid disc.

    Raises
    ------
    FileNotFoundError, DataFileError
        If the file is missing or damaged.
    """
    check_option("name", name, ("tb", "ta", "solid_disc"))
    path = data_root(root) / "htc2022_real_sinograms.npz"
    image, kinds = (
        ("solid_disc_full_recon_fbp", "f") if name == "solid_disc" else (f"{name}_gt", "ub")
    )
    found = read_npz(
        path,
        {
            f"{name}_angles_deg": ("iuf", ("V",)),
            f"{name}_sinogram": ("f", ("V", "D")),
            image: (kinds, ("S", "S")),
            "geometry_json": ("U", ()),
        },
    )
    sinogram, picture = found[f"{name}_sinogram"], found[image]
    degrees = found[f"{name}_angles_deg"].astype(np.float64)
    if not (np.isfinite(sinogram).all() and np.isfinite(degrees).all()):
        raise fault(path, f"{name}: NaN or infinite entries", "npz")
    if len(degrees) > 1 and np.ptp(degrees) <= 2 * math.pi:
        span = f"{name}_angles_deg: from {degrees.min():.3g} to {degrees.max():.3g}"
        raise fault(path, f"{span}; radians? (degrees are needed)", "npz")
    try:
        record = json.loads(str(found["geometry_json"]))
        lengths = [
            as_positive(record[key], key)
            for key in (
                "distance_source_origin_mm",
                "distance_source_detector_mm",
                "detector_pixel_mm",
                "effective_pixel_mm",
            )
        ]
        if record["n_det"] != sinogram.shape[1]:
            raise ValueError(f"n_det {record['n_det']}, but {sinogram.shape[1]} detector pixels")
    except (ValueError, KeyError, TypeError) as error:
        raise fault(path, f"geometry_json is not usable ({error})", "npz") from None
    image_tensor = torch.from_numpy(picture.astype(np.float32))
    return FanBeamScan(
        torch.from_numpy(sinogram.astype(np.float32)),
        torch.from_numpy(np.deg2rad(degrees)),
        source_origin_mm=lengths[0],
        source_detector_mm=lengths[1],
        detector_pixel_mm=lengths[2],
        image_size=len(image_tensor),
        image_pixel_mm=lengths[3],
        mask=None if name == "solid_disc" else image_tensor > 0,
        reference=image_tensor if name == "solid_disc" else None,
    )
