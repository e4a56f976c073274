"""Arrays from files: every format is read here, none of them can run code.

A name is a path, or ``path::key`` for one array of a file with several. Optional formats need an
extra, and say so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from dro_core.checks import unknown
from dro_core.optional import needed

#: An array of any dtype, or a sparse matrix.
Loaded: TypeAlias = NDArray[Any] | sparse.csr_array

#: Suffixes that hold pickles, which run code when read.
PICKLES = (".pkl", ".pickle", ".joblib", ".dill", ".p")
HDF5 = (".h5", ".hdf5", ".he5", ".nxs")
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".pgm")
DICOM = (".dcm", ".dicom", ".ima")
#: Names under which files usually keep signals and measurements (those of fastMRI among them).
SIGNALS = ("x", "target", "signal", "signals", "image", "images", "reconstruction_rss",
           "reconstruction_esc")  # fmt: skip
MEASUREMENTS = ("y", "measurement", "measurements", "data", "sinogram", "sinograms", "kspace")
#: How files of MATLAB 7.3, which are HDF5, begin.
MATLAB_73 = b"MATLAB 7.3"


def load_pairs(names: Sequence[str]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Signals and measurements from one file or folder that has both, or from two.

    Parameters
    ----------
    names : one or two names
        One: a file with two arrays (`SIGNALS`, `MEASUREMENTS`), or a folder with entries ``x`` and
        ``y``. Two: signals first, measurements second.

    Returns
    -------
    x, y : arrays with the samples along the first axis

    Raises
    ------
    ValueError, OSError, ModuleNotFoundError
        For what cannot be read, with the reason.
    """
    if len(names) > 2:
        raise ValueError(f"data: {len(names)} names; allowed: one with both, or signals and "
                         "measurements")  # fmt: skip
    if len(names) == 2:
        return _dense(load_array(names[0]), names[0]), _dense(load_array(names[1]), names[1])
    path = _existing(Path(names[0]))
    if path.is_dir():
        found = [_entry(path, which) for which in ("x", "y")]
        return _dense(load_array(found[0]), found[0]), _dense(load_array(found[1]), found[1])
    arrays = _read(path)
    if not isinstance(arrays, dict):
        raise ValueError(f"{path}: one array; a pair needs two: --data X Y")
    keys = [_key(arrays, names, path, what) for names, what in (
        (SIGNALS, "signals"), (MEASUREMENTS, "measurements"))]  # fmt: skip
    return arrays[keys[0]](), arrays[keys[1]]()


def load_array(name: str | Path, preferred: Sequence[str] = ()) -> Loaded:
    """One array: the only one of a file, that of its key, or the first of the preferred names.

    Raises
    ------
    ValueError, OSError, ModuleNotFoundError
        For what cannot be read, with the reason.
    """
    text, _, key = str(name).partition("::")
    path = _existing(Path(text))
    arrays = _read(path)
    if not isinstance(arrays, dict):
        if key:
            raise ValueError(f"{path}: has no keys, so {key!r} is not one")
        return arrays
    if key:
        if key not in arrays:
            raise ValueError(f"{path}: {unknown('key', key, arrays)}")
        return arrays[key]()
    if len(arrays) == 1:
        return next(iter(arrays.values()))()
    for candidate in preferred:
        if candidate in arrays:
            return arrays[candidate]()
    raise ValueError(f"{path}: has {', '.join(arrays) or 'no arrays'}; name one: {path}::KEY")


#: What a file holds: one array, or several by name, read when asked for.
Content: TypeAlias = Loaded | dict[str, Callable[[], NDArray[Any]]]


def _read(path: Path) -> Content:
    if path.is_dir():
        return _folder(path)
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        raise ValueError(
            f"{path}: a pickle runs code when read, so it is not; save arrays with numpy.savez"
        )
    readers: dict[str, Callable[[Path], Content]] = {
        ".npy": _numpy,
        ".npz": _numpy,
        ".mat": _matlab,
    }
    readers |= dict.fromkeys(HDF5, _hdf5) | dict.fromkeys(DICOM, _one_dicom)
    readers |= dict.fromkeys(IMAGES, _image)
    if suffix not in readers:
        allowed = ", ".join(readers)
        raise ValueError(f"{path}: suffix {suffix!r}; allowed: {allowed}, or a folder of images")
    try:
        return readers[suffix](path)
    except (ModuleNotFoundError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # whatever a reader of a damaged file raises
        raise ValueError(f"{path}: cannot be read ({_first_line(error)})") from error


def _numpy(path: Path) -> Content:
    """An .npy file stays on disk until it is used; of an .npz file one array is read at a time."""
    if path.suffix.lower() == ".npy":
        mapped: NDArray[Any] = np.load(path, allow_pickle=False, mmap_mode="r")
        return mapped
    with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
        names = list(found.files)
    if {"format", "shape", "data"} <= set(names):  # scipy.sparse.save_npz
        return sparse.csr_array(sparse.load_npz(path))
    return {name: partial(_member, path, name) for name in names}


def _member(path: Path, name: str) -> NDArray[Any]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
        try:
            return np.asarray(found[name])
        except ValueError as error:
            raise ValueError(f"{path}::{name}: cannot be read ({_first_line(error)})") from error


def _matlab(path: Path) -> Content:
    with path.open("rb") as file:
        if file.read(len(MATLAB_73)) == MATLAB_73:
            return _hdf5(path, matlab=True)
    from scipy.io import loadmat

    found = {key: value for key, value in loadmat(path).items() if not key.startswith("__")}
    for key, value in found.items():
        if sparse.issparse(value):
            found[key] = value.toarray()
    return {
        key: partial(np.asarray, value)
        for key, value in found.items()
        if np.asarray(value).dtype.kind in "biufc"
    }


def _hdf5(path: Path, *, matlab: bool = False) -> Content:
    """All data sets; MATLAB writes them with the axes reversed, complex as (real, imag) records."""
    h5py = needed("h5py", "a file of HDF5 or MATLAB 7.3")
    names: list[str] = []
    with h5py.File(path, "r") as file:
        file.visititems(
            lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
        )

    def read(name: str) -> NDArray[Any]:
        with h5py.File(path, "r") as file:
            values = np.asarray(file[name][()])
        fields = values.dtype.names
        if fields is not None and set(fields) in ({"real", "imag"}, {"r", "i"}):
            values = values[fields[0]] + 1j * values[fields[1]]
        return values.T if matlab else values

    return {name: partial(read, name) for name in names if not name.startswith("#refs#")}


def _image(path: Path) -> NDArray[Any]:
    """The frames of a stack (N, H, W) or (N, C, H, W)."""
    image_module = needed("PIL.Image", "an image")
    frames = []
    with image_module.open(path) as image:
        for k in range(getattr(image, "n_frames", 1)):
            image.seek(k)
            if image.mode in ("P", "CMYK", "YCbCr", "LA", "RGBA"):
                frames.append(np.asarray(image.convert("RGB")))
            else:
                frames.append(np.asarray(image))
    return _stack(frames, [f"frame {k}" for k in range(len(frames))], path)


def _one_dicom(path: Path) -> NDArray[Any]:
    return _stack([_dicom_pixels(path)[1]], [path.name], path)


def _dicom_pixels(path: Path) -> tuple[tuple[float, str], NDArray[Any]]:
    """The place of a slice in its series, and its values with slope and intercept."""
    pydicom = needed("pydicom", "a DICOM series")
    found = pydicom.dcmread(path)
    values = np.asarray(found.pixel_array, dtype=np.float64)
    slope = float(getattr(found, "RescaleSlope", 1.0))
    values = values * slope + float(getattr(found, "RescaleIntercept", 0.0))
    return (float(getattr(found, "InstanceNumber", 0) or 0), path.name), values


def _folder(path: Path) -> NDArray[Any]:
    """A folder of images or of one DICOM series, in order."""
    files = sorted(entry for entry in path.iterdir() if entry.is_file() and entry.name[0] != ".")
    dicom = [entry for entry in files if entry.suffix.lower() in DICOM]
    images = [entry for entry in files if entry.suffix.lower() in IMAGES]
    if dicom and not images:
        slices = sorted((_dicom_pixels(entry) for entry in dicom), key=lambda pair: pair[0])
        return _stack([pixels for _, pixels in slices], [place[1] for place, _ in slices], path)
    if not images or dicom:
        found = "both images and DICOM files" if images else "no images"
        raise ValueError(f"{path}: {found}; needed: a folder of {', '.join(IMAGES + DICOM)}")
    parts = [(entry.name, _image(entry)) for entry in images]
    return _stack([frame for _, part in parts for frame in part],
                  [name for name, part in parts for _ in part], path)  # fmt: skip


def _stack(frames: list[NDArray[Any]], names: list[str], path: Path) -> NDArray[Any]:
    for frame, name in zip(frames, names, strict=True):
        if frame.shape != frames[0].shape:
            raise ValueError(
                f"{path}: {name} has shape {frame.shape}, but {names[0]} has {frames[0].shape}; "
                "all samples have one size"
            )
    stacked = np.stack(frames)
    return np.moveaxis(stacked, -1, 1) if stacked.ndim == 4 and stacked.shape[-1] == 3 else stacked


def _entry(folder: Path, name: str) -> Path:
    """The file or folder called `name` in a folder, whatever its suffix."""
    found = sorted(entry for entry in folder.iterdir() if entry.stem == name)
    if len(found) != 1:
        raise ValueError(
            f"{folder}: {len(found)} entries called {name}; a folder of pairs has one x and one y"
        )
    return found[0]


def _key(arrays: dict[str, Any], known: Sequence[str], path: Path, what: str) -> str:
    for name in known:
        if name in arrays:
            return name
    raise ValueError(
        f"{path}: has {', '.join(arrays) or 'no arrays'}, none of them called {known[0]} ({what}); "
        f"name them: --data {path}::X {path}::Y"
    )


def _existing(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder")
    return path


def _dense(value: Loaded, name: str | Path) -> NDArray[Any]:
    if sparse.issparse(value):
        raise ValueError(f"{name}: a sparse matrix; samples are dense")
    return np.asarray(value)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
