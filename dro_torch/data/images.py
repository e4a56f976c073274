"""Labelled images: MNIST, CIFAR-10, Caltech-101."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from dro_core.described import Drawn
from dro_torch.data.files import (
    AnyArray,
    check_option,
    data_root,
    existing,
    fault,
    pillow,
    read_idx,
    read_npz,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Images in one batch file of CIFAR-10.
CIFAR10_BATCH = 10_000
CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


@dataclass(frozen=True, repr=False)
class LabelledImages(Drawn):
    """Images with their classes.

    Attributes
    ----------
    images : (N, channels, height, width) uint8 tensor
    labels : (N,) int64 tensor
    classes : tuple of str
        Name of every label.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def _draw(self, ax: Axes) -> None:
        """The first image, with its class."""
        ax.imshow(self.images[0].movedim(0, -1).squeeze(-1).numpy(), cmap="gray")
        ax.set_title(self.classes[int(self.labels[0])])
        ax.set_axis_off()


def labelled(
    path: Path, images: AnyArray, labels: AnyArray, classes: Sequence[str], source: str
) -> LabelledImages:
    """Channels-first tensors of (N, ...) uint8 images and their labels, which are checked."""
    if len(images) != len(labels):
        raise fault(path, f"{len(images)} images, but {len(labels)} labels", source)
    if len(images) == 0:
        raise fault(path, "no images", source)
    labels = np.asarray(labels).astype(np.int64)
    if labels.min() < 0 or labels.max() >= len(classes):
        wrong = int(np.flatnonzero((labels < 0) | (labels >= len(classes)))[0])
        raise fault(
            path,
            f"label {labels[wrong]} of image {wrong}; there are {len(classes)} classes",
            source,
        )
    return LabelledImages(
        torch.from_numpy(np.array(images)), torch.from_numpy(labels), tuple(map(str, classes))
    )


def mnist(
    split: str = "train",
    root: str | os.PathLike[str] | None = None,
    folder: str = "mnist",
) -> LabelledImages:
    """MNIST, or any data set in its files (Fashion-MNIST, KMNIST): images (N, 1, 28, 28).

    Parameters
    ----------
    split : "train" or "test"
    root : path, optional
        Data root, see `data_root`.
    folder : str
        Folder in the data root with ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``,
        ``t10k-images-idx3-ubyte`` and ``t10k-labels-idx1-ubyte``, each with ``.gz`` or not, and
        with ``.idx`` for ``-idx`` too. Without such a folder they may lie in the root itself.

    Raises
    ------
    FileNotFoundError, DataFileError
        If a file is missing or damaged.
    """
    check_option("split", split, ("train", "test"))
    here = data_root(root) / folder
    if not here.is_dir() and any(data_root(root).glob("*-ubyte*")):
        here = data_root(root)
    paths, arrays = [], []
    for name, axes in (("images{}idx3-ubyte", 3), ("labels{}idx1-ubyte", 1)):
        stem = "train-" if split == "train" else "t10k-"
        plain = [here / (stem + name.format(mark)) for mark in "-."]
        zipped = [path.with_name(path.name + ".gz") for path in plain]
        path = existing(zipped[0], "mnist", plain[0], zipped[1], plain[1])
        array = read_idx(path)
        if (
            array.ndim != axes
            or array.dtype != np.uint8
            or (axes == 3 and array.shape[1:] != (28, 28))
        ):
            raise fault(path, f"{array.dtype} array of shape {array.shape}", "mnist")
        paths.append(path)
        arrays.append(array)
    images, labels = arrays
    return labelled(paths[1], images[:, None], labels, [str(i) for i in range(10)], "mnist")


def cifar10(
    split: str = "train",
    root: str | os.PathLike[str] | None = None,
    source: str = "binary",
    evaluation: str = "official",
) -> LabelledImages:
    """CIFAR-10: images (N, 3, 32, 32).

    Parameters
    ----------
    split : "train" or "test"
    root : path, optional
        Data root, see `data_root`.
    source : "binary", "python", "jpeg60k" or "lossless4k"
        ``cifar-10-batches-bin`` or ``cifar-10-batches-py``, the official files. The pickles of
        the latter are read by an unpickler that knows no class and no function but inert stand-ins
        for three names of numpy, so a hostile file is an error and cannot run code.
        ``cifar10_jpeg60k.npz``: all images as JPEG (needs Pillow). *Lossy*, median 30.5 dB against
        the original: results compare with no published number.
        ``cifar10_lossless4k.npz``: the original pixels of 4,000 training images, as test split.
    evaluation : "official" or "lossless4k"
        With "lossless4k" the training split leaves out the images of that file, so that the two
        are disjoint: by their index in ``cifar10_jpeg60k.npz``, or by their pixels.

    Raises
    ------
    FileNotFoundError, DataFileError
        If a file is missing or damaged.
    ModuleNotFoundError
        If Pillow is needed and not installed.
    """
    check_option("split", split, ("train", "test"))
    check_option("source", source, ("binary", "python", "jpeg60k", "lossless4k"))
    check_option("evaluation", evaluation, ("official", "lossless4k"))
    folder = data_root(root)
    if source == "lossless4k":
        if split != "test":
            raise ValueError(
                "split: 'train', but lossless4k is an evaluation set; use split='test', and train "
                "on another source with evaluation='lossless4k'"
            )
        path, found = lossless(folder)
        images, labels = _channels_first(found["images"]), found["label"]
    elif source == "jpeg60k":
        path, images, labels = _cifar10_jpeg(folder, split, evaluation)
    else:
        path, images, labels = _cifar10_official(folder, split, source)
        if evaluation == "lossless4k" and split == "train":
            known = {image.tobytes() for image in _channels_first(lossless(folder)[1]["images"])}
            kept = [image.tobytes() not in known for image in images]
            images, labels = images[kept], labels[kept]
    origin = {"binary": "cifar10", "python": "cifar10-python"}.get(source, "npz")
    return labelled(path, images, labels, CIFAR10_CLASSES, origin)


def _channels_first(images: AnyArray) -> AnyArray:
    return np.ascontiguousarray(np.moveaxis(images, 3, 1))


def lossless(folder: Path) -> tuple[Path, dict[str, AnyArray]]:
    """Path and arrays of ``cifar10_lossless4k.npz``."""
    path = folder / "cifar10_lossless4k.npz"
    return path, read_npz(
        path,
        {
            "images": ("u", ("N", 32, 32, 3)),
            "label": ("ui", ("N",)),
            "jpeg60k_index": ("ui", ("N",)),
        },
    )


def _cifar10_official(folder: Path, split: str, source: str) -> tuple[Path, AnyArray, AnyArray]:
    names = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
    images, labels = [], []
    for name in names:
        if source == "binary":
            path = existing(folder / "cifar-10-batches-bin" / f"{name}.bin", "cifar10")
            expected = CIFAR10_BATCH * 3073
            if path.stat().st_size != expected:
                raise fault(path, f"{path.stat().st_size} bytes instead of {expected}", "cifar10")
            records = np.fromfile(path, np.uint8).reshape(CIFAR10_BATCH, 3073)
            pixels, classes = records[:, 1:], records[:, 0]
        else:
            path = existing(folder / "cifar-10-batches-py" / name, "cifar10-python")
            pixels, classes = _read_cifar10_pickle(path)
        images.append(pixels.reshape(-1, 3, 32, 32))
        labels.append(classes)
    return path, np.concatenate(images), np.concatenate(labels)


class _Inert:
    """Takes the place of a numpy name in a pickle: keeps what it is given, does nothing."""

    state: Any = None

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __setstate__(self, state: object) -> None:
        self.state = state


class _InertUnpickler(pickle.Unpickler):
    """Reads containers of the standard library; an array is left as its shape, dtype and bytes."""

    allowed = frozenset(
        [("numpy", "ndarray"), ("numpy", "dtype")]
        + [(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")]
    )

    def find_class(self, module: str, name: str) -> type[_Inert]:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no data need")
        return _Inert

    def persistent_load(self, pid: object) -> NoReturn:
        raise pickle.UnpicklingError("it has persistent references, which no data need")


def _read_cifar10_pickle(path: Path) -> tuple[AnyArray, AnyArray]:
    """Pixels (N, 3072) and labels of one official batch."""
    try:
        content = _InertUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        _, shape, dtype, fortran, raw = content[b"data"].state
        kind = dtype.arguments[0]
        labels = content[b"labels"]
        well = (
            shape == (CIFAR10_BATCH, 3072)
            and kind in (b"u1", "u1")
            and not fortran
            and isinstance(raw, bytes)
            and len(raw) == CIFAR10_BATCH * 3072
        )
        if not well:
            raise ValueError(f"array of shape {shape} and dtype {kind!r}")
        if type(labels) is not list or not all(type(label) is int for label in labels):
            raise ValueError("labels that are no list of integers")
        return np.frombuffer(raw, np.uint8).reshape(shape), np.array(labels, dtype=np.int64)
    except Exception as error:  # a hostile or damaged pickle may fail in any way
        raise fault(path, f"not an official batch ({error!r})", "cifar10-python") from None


def _cifar10_jpeg(folder: Path, split: str, evaluation: str) -> tuple[Path, AnyArray, AnyArray]:
    path = folder / "cifar10_jpeg60k.npz"
    is_test = read_npz(path, {"is_test": ("b", ("N",))})["is_test"]
    chosen = np.flatnonzero(is_test == (split == "test"))
    if evaluation == "lossless4k" and split == "train":
        other, exact = lossless(folder)
        index = exact["jpeg60k_index"]
        if index.min() < 0 or index.max() >= len(chosen):
            raise fault(other, f"jpeg60k_index leaves 0 to {len(chosen) - 1}", "npz")
        chosen = np.delete(chosen, index)
    return path, *decode_jpeg(path, chosen)


def decode_jpeg(path: Path, chosen: AnyArray) -> tuple[AnyArray, AnyArray]:
    """Pixels (n, 3, 32, 32) and labels of chosen images of ``cifar10_jpeg60k.npz``."""
    image_module = pillow()
    found = read_npz(
        path,
        {
            "header": ("u", ("H",)),
            "scan": ("u", ("S",)),
            "offset": ("ui", ("O",)),
            "label": ("ui", ("N",)),
            "is_test": ("b", ("N",)),
        },
    )
    offset = found["offset"].astype(np.int64)
    ordered = (np.diff(offset) > 0).all() and offset[:1] == 0 and offset[-1:] == len(found["scan"])
    if len(offset) != len(found["label"]) + 1 or not ordered:
        raise fault(path, "offsets of the JPEG streams are inconsistent", "npz")
    header, scan = found["header"].tobytes(), found["scan"]
    images = np.empty((len(chosen), 3, 32, 32), np.uint8)
    for row, i in enumerate(chosen):
        stream = io.BytesIO(header + scan[offset[i] : offset[i + 1]].tobytes())
        try:
            with image_module.open(stream, formats=("JPEG",)) as image:
                pixels = np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError) as error:
            raise fault(path, f"image {i} is no JPEG stream ({error})", "npz") from None
        if pixels.shape != (32, 32, 3):
            raise fault(path, f"image {i} has shape {pixels.shape}", "npz")
        images[row] = np.moveaxis(pixels, 2, 0)
    return images, found["label"][chosen]


def caltech101(split: str = "train", root: str | os.PathLike[str] | None = None) -> LabelledImages:
    """Colour images of Caltech-101 at 64 x 64 pixels, from ``caltech101_rgb64.npz``.

    Parameters
    ----------
    split : "train" or "test"
        Test images are the last 15 % of every class, which keeps most faces of one person on one
        side.
    root : path, optional
        Data root, see `data_root`.

    Raises
    ------
    FileNotFoundError, DataFileError
        If the file is missing or damaged.
    """
    check_option("split", split, ("train", "test"))
    path = data_root(root) / "caltech101_rgb64.npz"
    found = read_npz(
        path,
        {
            "images": ("u", ("N", "S", "S", 3)),
            "label": ("ui", ("N",)),
            "is_test": ("b", ("N",)),
            "classes": ("U", ("K",)),
        },
    )
    kept = found["is_test"] == (split == "test")
    images = _channels_first(found["images"][kept])
    return labelled(path, images, found["label"][kept], found["classes"].tolist(), "npz")
