"""Data files: read back from files written independently, refused when damaged; and batches."""

import gzip
import io
import json
import os
import pickle
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import interp1d
from torch.utils.data import DataLoader

from dro_torch import data
from dro_torch.data import (
    Batches,
    DataFileError,
    IndexedDataset,
    batches,
    caltech101,
    cifar10,
    ct_slices,
    data_root,
    htc2022,
    imbalanced,
    load_2detect,
    mnist,
    read_idx,
    reference_2detect,
    shift_detector,
    slices_2detect,
    split,
    transmission,
    unpaired,
)

ROOT = Path(os.environ.get("DRO_DATA") or Path(__file__).parents[2] / "shared" / "data")
SMALL = 20  # images in a CIFAR-10 batch file of these tests


def real(name):
    return pytest.mark.skipif(not (ROOT / name).exists(), reason=f"no {name} in the data root")


# --- files, written here byte by byte -------------------------------------------------------------


def idx(array, code=8):
    """An IDX file of unsigned bytes."""
    return (
        bytes([0, 0, code, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + bytes(array.astype(np.uint8).ravel().tolist())
    )


def tiff(array, order="<", strips=1, compression=1):
    """An uncompressed grey-scale TIFF file of integers or floats, a few rows to a strip."""
    height, width = array.shape
    bits, kind = 8 * array.itemsize, "uif".index(array.dtype.kind) + 1
    pixels = array.astype(array.dtype.newbyteorder(order)).tobytes()
    rows = -(-height // strips)
    size = rows * width * array.itemsize
    places = [8 + start for start in range(0, len(pixels), size)]
    sizes = [min(size, 8 + len(pixels) - place) for place in places]
    end = 8 + len(pixels)
    tables = struct.pack(f"{order}{2 * len(places)}I", *places, *sizes)
    offsets, counts = (end, end + 4 * len(places)) if len(places) > 1 else (places[0], sizes[0])
    entries = [
        (256, 1, width),
        (257, 1, height),
        (258, 1, bits),
        (259, 1, compression),
        (262, 1, 1),
        (273, len(places), offsets),
        (277, 1, 1),
        (278, 1, rows),
        (279, len(places), counts),
        (339, 1, kind),
    ]
    start = end + len(tables)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    directory = struct.pack(order + "H", len(entries))
    for tag, count, value in entries:
        directory += struct.pack(order + "HHII", tag, 4, count, value)
    return head + pixels + tables + directory + struct.pack(order + "I", 0)


def python2_pickle(pixels, labels):
    """The official form: protocol 2 as Python 2 and numpy 1 wrote it."""

    def short(text):
        return b"U" + bytes([len(text)]) + text

    def integer(value):
        return b"J" + struct.pack("<i", value)

    raw = pixels.tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + integer(0) + b"\x85"
    array += short(b"b") + b"\x87R(" + integer(1) + integer(pixels.shape[0])
    array += integer(pixels.shape[1]) + b"\x86cnumpy\ndtype\n" + short(b"u1") + integer(0)
    array += integer(1) + b"\x87R(" + integer(3) + short(b"|") + b"NNN" + integer(-1)
    array += integer(-1) + integer(0) + b"tb\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"
    listed = b"](" + b"".join(integer(label) for label in labels) + b"e"
    return b"\x80\x02}(" + short(b"data") + array + short(b"labels") + listed + b"u."


def random_images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


DIGITS, DIGIT_LABELS = random_images(7, 28, 28), np.array([3, 1, 4, 1, 5, 9, 2])
COLOUR = random_images(6, SMALL, 3, 32, 32, seed=1)
COLOUR_LABELS = random_images(6, SMALL, seed=2) % 10
BATCH_NAMES = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
JPEGS = 8
CT_PATIENTS = np.array(["A046441", "A056642", "A062055", "A072894", "P1", "P1", "Q", "Q"])
GEOMETRY = {
    "distance_source_origin_mm": 410.66,
    "distance_source_detector_mm": 553.74,
    "detector_pixel_mm": 0.2,
    "n_det": 6,
    "effective_pixel_mm": 0.148,
}


def jpeg_arrays():
    """The first two training images are those of the lossless file."""
    from PIL import Image

    streams = []
    for image in COLOUR.reshape(-1, 3, 32, 32)[:JPEGS]:
        file = io.BytesIO()
        Image.fromarray(np.moveaxis(image, 0, 2)).save(file, "JPEG", quality=75)
        streams.append(file.getvalue())
    shared = next(i for i, column in enumerate(zip(*streams, strict=False)) if len(set(column)) > 1)
    parts = [stream[shared:] for stream in streams]
    return {
        "header": np.frombuffer(streams[0][:shared], np.uint8),
        "scan": np.frombuffer(b"".join(parts), np.uint8),
        "offset": np.cumsum([0, *map(len, parts)]),
        "label": COLOUR_LABELS.ravel()[:JPEGS],
        "is_test": np.arange(JPEGS) >= 5,
    }


def lossless_arrays():
    return {
        "images": np.moveaxis(COLOUR.reshape(-1, 3, 32, 32)[[1, 3]], 1, 3),
        "label": COLOUR_LABELS.ravel()[[1, 3]],
        "jpeg60k_index": np.array([1, 3]),
    }


def caltech_arrays():
    return {
        "images": random_images(5, 64, 64, 3),
        "label": np.array([0, 1, 2, 0, 1]),
        "is_test": np.arange(5) > 2,
        "classes": np.array(["a", "b", "c"]),
    }


def ct_arrays():
    hu = np.random.default_rng(0).integers(-1024, 3071, (8, 4, 4)).astype(np.int16)
    return {
        "hu": hu,
        "patient": CT_PATIENTS,
        "pixel_mm": np.full(8, 1.5, np.float32),
        "is_test": CT_PATIENTS == "Q",
    }


def htc_arrays():
    rng = np.random.default_rng(0)
    found = {"geometry_json": np.array(json.dumps(GEOMETRY))}
    for name in ("ta", "tb", "solid_disc"):
        found[f"{name}_sinogram"] = rng.random((3, 6), np.float32)
        found[f"{name}_angles_deg"] = np.array([0, 90, 180], np.float32)
        found[f"{name}_gt"] = np.eye(4, dtype=np.uint8)
    found["solid_disc_full_recon_fbp"] = rng.random((4, 4), np.float32)
    return found


VIEWS, PIXELS = 9, 12
COUNTS = np.random.default_rng(3)
RAW = {
    "sinogram": COUNTS.integers(300, 5000, (VIEWS, PIXELS), dtype=np.uint16),
    "dark": COUNTS.integers(100, 200, (1, PIXELS), dtype=np.uint16),
    "flat1": COUNTS.integers(6000, 9000, (1, PIXELS), dtype=np.uint16),
    "flat2": COUNTS.integers(6000, 9000, (1, PIXELS), dtype=np.uint16),
}


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """A data root with a tiny file of every kind."""
    root = tmp_path_factory.mktemp("data")
    for name in (
        "mnist",
        "cifar-10-batches-bin",
        "cifar-10-batches-py",
        "slice00007/mode2",
        "slice04000/mode2",
    ):
        (root / name).mkdir(parents=True)
    for stem in ("train", "t10k"):
        pack = gzip.compress if stem == "train" else bytes
        suffix = ".gz" if stem == "train" else ""
        (root / f"mnist/{stem}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(DIGITS)))
        (root / f"mnist/{stem}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(DIGIT_LABELS)))
    for name, images, labels in zip(BATCH_NAMES, COLOUR, COLOUR_LABELS, strict=True):
        pixels = images.reshape(SMALL, 3072)
        records = np.hstack([labels[:, None], pixels]).astype(np.uint8)
        (root / f"cifar-10-batches-bin/{name}.bin").write_bytes(records.tobytes())
        (root / f"cifar-10-batches-py/{name}").write_bytes(python2_pickle(pixels, labels.tolist()))
    np.savez(root / "cifar10_jpeg60k.npz", **jpeg_arrays())
    np.savez(root / "cifar10_lossless4k.npz", **lossless_arrays())
    np.savez(root / "caltech101_rgb64.npz", **caltech_arrays())
    np.savez(root / "ct_axial_hu256.npz", **ct_arrays())
    np.savez(root / "htc2022_real_sinograms.npz", **htc_arrays())
    for number in (7, 4000):
        for name, array in RAW.items():
            file = root / f"slice{number:05d}/mode2/{name}.tif"
            file.write_bytes(tiff(array, "<" if name != "dark" else ">"))
    return root


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(data.images, "CIFAR10_BATCH", SMALL)


# --- the data root --------------------------------------------------------------------------------


def test_the_argument_goes_before_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("DRO_DATA", str(tmp_path))
    assert data_root() == tmp_path
    assert data_root(tmp_path / "..") == tmp_path / ".."
    with pytest.raises(FileNotFoundError, match=r"root \(--data\): .*absent is not a folder"):
        data_root(tmp_path / "absent")
    monkeypatch.setenv("DRO_DATA", str(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError, match=r"DRO_DATA: .*absent is not a folder"):
        data_root()
    monkeypatch.delenv("DRO_DATA")
    with pytest.raises(FileNotFoundError, match="environment variable DRO_DATA"):
        data_root()


# --- round trips ----------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["train", "test"])
def test_mnist_gzipped_and_plain(written, part, monkeypatch):
    monkeypatch.setenv("DRO_DATA", str(written))
    found = mnist(part)
    assert found.images.dtype == torch.uint8
    np.testing.assert_array_equal(found.images, DIGITS[:, None])
    np.testing.assert_array_equal(found.labels, DIGIT_LABELS)
    assert len(found) == 7


@pytest.mark.parametrize("inside", ["mnist", "."])
@pytest.mark.parametrize("mark", "-.")
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_other_sets_of_idx_files_by_the_root(tmp_path, inside, mark, suffix):
    """Fashion-MNIST and its kin: in the root or in its folder, all usual names."""
    folder, pack = tmp_path / inside, gzip.compress if suffix else bytes
    folder.mkdir(exist_ok=True)
    clothes = 255 - DIGITS
    (folder / f"t10k-images{mark}idx3-ubyte{suffix}").write_bytes(pack(idx(clothes)))
    (folder / f"t10k-labels{mark}idx1-ubyte{suffix}").write_bytes(pack(idx(DIGIT_LABELS)))
    np.testing.assert_array_equal(mnist("test", tmp_path).images, clothes[:, None])
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte.gz \(or .*idx3-ubyte"):
        mnist("train", tmp_path)


def test_idx_of_other_types(tmp_path):
    array = np.arange(6, dtype=">i4").reshape(2, 3)
    header = bytes([0, 0, 0x0C, 2]) + struct.pack(">2I", 2, 3)
    (tmp_path / "a").write_bytes(header + array.tobytes())
    np.testing.assert_array_equal(read_idx(tmp_path / "a"), array)


def usable(array, dtype):
    """Native, writable and contiguous, of this dtype: what torch.from_numpy takes."""
    flags = array.flags
    assert array.dtype == np.dtype(dtype)
    assert array.dtype.isnative
    assert flags.writeable
    assert flags.c_contiguous
    assert flags.owndata or array.base.flags.writeable


@pytest.mark.parametrize(
    ("code", "dtype"),
    [(0x08, "u1"), (0x09, "i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4"), (0x0E, ">f8")],
)
def test_idx_arrays_are_native_and_writable(tmp_path, code, dtype):
    array = np.arange(6, dtype=dtype).reshape(2, 3)
    (tmp_path / "a").write_bytes(
        bytes([0, 0, code, 2]) + struct.pack(">2I", 2, 3) + array.tobytes()
    )
    found = read_idx(tmp_path / "a")
    usable(found, array.dtype.newbyteorder("="))
    np.testing.assert_array_equal(found, array)
    found[0, 0] = 5
    assert torch.from_numpy(found)[0, 0] == 5


def test_files_of_any_byte_and_memory_order_give_the_same_tensors(written, tmp_path):
    """Big-endian and Fortran-ordered .npz arrays, big-endian TIFF: native, contiguous tensors."""
    root = tmp_path / "root"
    shutil.copytree(written, root)
    for name in (JPEG, EXACT, CALTECH, CT, HTC):
        with np.load(root / name) as found:
            arrays = {key: found[key] for key in found.files}
        swapped = {
            key: np.asfortranarray(array.astype(array.dtype.newbyteorder(">")))
            if array.ndim
            else array
            for key, array in arrays.items()
        }
        np.savez(root / name, **swapped)
    for name, array in RAW.items():
        (root / SCAN / f"{name}.tif").write_bytes(tiff(array, ">"))
    for read in READERS:
        for found, expected in zip(read(root), read(written), strict=True):
            assert found.is_contiguous()
            assert found.dtype == expected.dtype
            assert torch.equal(found, expected)
            found.zero_()


READERS = [
    lambda root: [
        t
        for source in ("binary", "python", "jpeg60k", "lossless4k")
        for t in tensors(cifar10("test", root, source))
    ],
    lambda root: tensors(mnist("test", root)),
    lambda root: tensors(caltech101("test", root)),
    lambda root: [
        t
        for units in ("HU", "unit", "attenuation")
        for t in tensors(ct_slices("train", root, units))
    ],
    lambda root: tensors(htc2022("tb", root)) + tensors(htc2022("solid_disc", root)),
    lambda root: tensors(read_scan(root)),
]


def tensors(found):
    return [value for value in vars(found).values() if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("strips", [1, 2])
def test_tiff_arrays_are_native_and_writable(tmp_path, dtype, order, strips):
    """Of every depth that detectors write; 64-bit floats too, which Pillow does not read."""
    from dro_torch.data.files import read_tiff

    array = np.arange(12).reshape(3, 4).astype(dtype)
    (tmp_path / "a.tif").write_bytes(tiff(array, order, strips))
    found = read_tiff(tmp_path / "a.tif", "2detect")
    usable(found, found.dtype)
    np.testing.assert_array_equal(found, array)


def test_a_scan_of_64_bit_floats(written, tmp_path):
    shutil.copytree(written / "slice00007", tmp_path / "slice00007")
    for name, array in RAW.items():
        (tmp_path / SCAN / f"{name}.tif").write_bytes(tiff(array.astype(np.float64)))
    assert torch.equal(read_scan(tmp_path).sinogram, read_scan(written).sinogram)


@pytest.mark.parametrize("source", ["binary", "python"])
def test_cifar10_official(written, source):
    found = cifar10("train", written, source)
    np.testing.assert_array_equal(found.images, COLOUR[:5].reshape(-1, 3, 32, 32))
    np.testing.assert_array_equal(found.labels, COLOUR_LABELS[:5].ravel())
    np.testing.assert_array_equal(cifar10("test", written, source).images, COLOUR[5])
    assert found.classes[3] == "cat"
    reduced = cifar10("train", written, source, evaluation="lossless4k")
    np.testing.assert_array_equal(reduced.images, np.delete(found.images.numpy(), [1, 3], axis=0))
    np.testing.assert_array_equal(reduced.labels, np.delete(found.labels.numpy(), [1, 3]))


def test_cifar10_npz(written):
    from PIL import Image

    lossless = cifar10("test", written, "lossless4k")
    np.testing.assert_array_equal(lossless.images, COLOUR.reshape(-1, 3, 32, 32)[[1, 3]])
    arrays = jpeg_arrays()
    stream = arrays["header"].tobytes() + arrays["scan"][: arrays["offset"][1]].tobytes()
    expected = np.moveaxis(np.asarray(Image.open(io.BytesIO(stream))), 2, 0)
    train = cifar10("train", written, "jpeg60k")
    np.testing.assert_array_equal(train.images[0], expected)
    assert [len(cifar10(part, written, "jpeg60k")) for part in ("train", "test")] == [5, 3]
    disjoint = cifar10("train", written, "jpeg60k", evaluation="lossless4k")
    np.testing.assert_array_equal(disjoint.images, train.images[[0, 2, 4]])
    np.testing.assert_array_equal(disjoint.labels, train.labels[[0, 2, 4]])


def test_caltech101(written):
    arrays = caltech_arrays()
    found = caltech101("test", written)
    np.testing.assert_array_equal(found.images, np.moveaxis(arrays["images"][3:], 3, 1))
    assert found.labels.tolist() == [0, 1]
    assert found.classes == ("a", "b", "c")
    assert len(caltech101("train", written)) == 3


def test_ct_slices_in_every_unit_and_split_by_patient(written):
    hu = ct_arrays()["hu"].astype(np.float64)
    parts = {name: ct_slices(name, written, "HU") for name in ("train", "validation", "test")}
    patients = [set(part.patients) for part in parts.values()]
    assert patients == [{"P1"}, set(CT_PATIENTS[:4]), {"Q"}]
    assert parts["train"].images.shape == (2, 1, 4, 4)
    np.testing.assert_array_equal(parts["test"].images[:, 0], hu[6:])
    scaled = ct_slices("test", written, "attenuation").images[:, 0]
    np.testing.assert_allclose(scaled, np.maximum(0.0192 * (1 + hu[6:] / 1000), 0), rtol=1e-5)
    unit = ct_slices("test", written).images[:, 0]
    np.testing.assert_allclose(unit, np.clip((hu[6:] + 1000) / 2000, 0, 1), atol=1e-6)
    moved = ct_slices("train", written, validation_patients=["P1"])
    assert set(moved.patients) == set(CT_PATIENTS[:4])


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "i4", "f4", ">f4", "f8"])
def test_hounsfield_units_of_any_signed_dtype(written, tmp_path, dtype):
    hu = ct_arrays()["hu"]
    np.savez(tmp_path / CT, **{**ct_arrays(), "hu": hu.astype(dtype)})
    for units in ("HU", "unit", "attenuation"):
        found, expected = (ct_slices("test", root, units).images for root in (tmp_path, written))
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)


def test_htc2022(written):
    arrays = htc_arrays()
    found = htc2022("ta", written)
    np.testing.assert_array_equal(found.sinogram, arrays["ta_sinogram"])
    np.testing.assert_allclose(found.angles, [0, np.pi / 2, np.pi], atol=1e-12)
    assert found.mask.dtype == torch.bool
    np.testing.assert_array_equal(found.mask, np.eye(4, dtype=bool))
    assert (found.source_origin_mm, found.source_detector_mm) == (410.66, 553.74)
    assert (found.detector_pixel_mm, found.image_pixel_mm, found.image_size) == (0.2, 0.148, 4)
    disc = htc2022("solid_disc", written)
    assert disc.mask is None
    np.testing.assert_array_equal(disc.reference, arrays["solid_disc_full_recon_fbp"])


def preprocessed(shift):
    """2DeteCT's preprocessing in loops; every pair of pixels, every view."""
    raw = {name: array.astype(float) for name, array in RAW.items()}
    pairs = PIXELS // 2
    rows = np.empty((VIEWS - 1, pairs))
    for v in range(VIEWS - 1):
        for j in range(pairs):
            both = [2 * j, 2 * j + 1]
            dark = raw["dark"][0, both].sum()
            flat = (raw["flat1"][0, both].sum() + raw["flat2"][0, both].sum()) / 2
            rows[v, j] = (raw["sinogram"][v, both].sum() - dark) / (flat - dark)
    grid = np.arange(pairs)
    moved = interp1d(grid, rows, bounds_error=False, fill_value="extrapolate")(grid + shift)
    return -np.log(moved.clip(1e-6))[:, ::-1]


@pytest.mark.parametrize(
    ("slice_", "given_shift", "shift"),
    [(7, None, 1.0), (4000, None, 0.0), (7, 0.0, 0.0), (7, -0.3, -0.3), (4000, 2.25, 2.25)],
)
def test_2detect_against_loops(written, slice_, given_shift, shift):
    found = load_2detect(written, slice_, 2, shift=given_shift, raw_shape=(VIEWS, PIXELS))
    assert found.sinogram.dtype == torch.float32
    np.testing.assert_allclose(found.sinogram, preprocessed(shift), rtol=1e-5, atol=1e-6)
    expected = np.pi - 2 * np.pi * np.arange(VIEWS - 1) / (VIEWS - 1)
    np.testing.assert_allclose(found.angles, expected)
    assert found.detector_pixel_mm == pytest.approx(0.1496)


def test_2detect_photon_starvation_is_clipped(written, tmp_path):
    shutil.copytree(written / "slice04000", tmp_path / "slice04000")
    starved = RAW["sinogram"].copy()
    starved[0, 0:2] = 0
    (tmp_path / "slice04000/mode2/sinogram.tif").write_bytes(tiff(starved))
    found = load_2detect(tmp_path, 4000, 2, raw_shape=(VIEWS, PIXELS))
    assert float(found.sinogram[0, -1]) == pytest.approx(-np.log(1e-6))
    assert bool(torch.isfinite(found.sinogram).all())


def test_2detect_at_full_size(tmp_path):
    """A known object: transmission exp(-p) to the rounding of counts."""
    place = tmp_path / "slice03000/mode1"
    place.mkdir(parents=True)
    path = np.linspace(0, 2, 956)[None] * np.linspace(0.5, 1, 3601)[:, None]
    counts = np.repeat(100 + 60000 * np.exp(-path), 2, axis=1).round().astype(np.uint16)
    (place / "sinogram.tif").write_bytes(tiff(counts))
    (place / "dark.tif").write_bytes(tiff(np.full((1, 1912), 100, np.uint16)))
    for name in ("flat1", "flat2"):
        (place / f"{name}.tif").write_bytes(tiff(np.full((1, 1912), 60100, np.uint16)))
    found = load_2detect(tmp_path, 3000, 1)
    assert found.sinogram.shape == (3600, 956)
    np.testing.assert_allclose(found.sinogram, path[:-1, ::-1], atol=1e-4)


def test_transmission_of_counts_is_between_dark_and_flat():
    np.testing.assert_allclose(transmission(**SCANNED), [[0.5, 0.5, 1.0]])
    assert transmission([[0]], [1], [9])[0, 0] == -1 / 8  # darker than the dark field: noise


def test_slices_of_2detect_are_counted_by_their_names(written, tmp_path):
    assert slices_2detect(written) == (7, 4000)
    (tmp_path / "slice00009").mkdir()
    (tmp_path / "slices.csv").write_text("")  # a file, and no slice
    assert slices_2detect(tmp_path) == (9,)
    (tmp_path / "slice9").mkdir()
    with pytest.raises(DataFileError, match="slice9: the name is not slice and five digits"):
        slices_2detect(tmp_path)


def test_references_of_2detect_are_mirrored_moved_and_per_millimetre(written, tmp_path):
    """One bright pixel, cut a pixel off the axis by the authors, who see the mirror image."""
    place = tmp_path / "slice00007/mode2"
    place.mkdir(parents=True)
    image = np.zeros((8, 8), np.float32)
    image[2 + 1, 5 + 1] = 3.0  # row 2 and column 5 about the axis
    (place / "reconstruction.tif").write_bytes(tiff(image))
    found = reference_2detect(tmp_path, 7, size=8)
    assert found[8 - 1 - 2, 5] == pytest.approx(3.0 / (1024 * 0.113797 / 8))
    assert int((found != 0).sum()) == 1
    with pytest.raises(DataFileError, match=r"shape \(8, 8\) instead of \(1024, 1024\)"):
        reference_2detect(tmp_path, 7)


@given(st.integers(0, 2**31), st.floats(-5, 5), st.integers(2, 9))
def test_shift_detector_is_linear_interpolation(seed, shift, size):
    rows = np.random.default_rng(seed).random((3, size))
    grid = np.arange(size)
    expected = interp1d(grid, rows, bounds_error=False, fill_value="extrapolate")(grid + shift)
    np.testing.assert_allclose(shift_detector(rows, shift), expected, atol=1e-12)


# --- pickles --------------------------------------------------------------------------------------


class _Command:
    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


PIXELS_5, LABELS_5 = COLOUR[5].reshape(SMALL, 3072), COLOUR_LABELS[5].tolist()


def official(pixels=PIXELS_5, labels=LABELS_5):
    return {b"data": pixels, b"labels": labels}


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_hostile_pickle_is_refused_and_does_nothing(written, tmp_path, protocol):
    root = tmp_path / "root"
    shutil.copytree(written / "cifar-10-batches-py", root / "cifar-10-batches-py")
    file, target = root / "cifar-10-batches-py/test_batch", tmp_path / "made"
    file.write_bytes(pickle.dumps({**official(), b"extra": _Command(target)}, protocol))
    with pytest.raises(DataFileError, match="which no data need"):
        cifar10("test", root, "python")
    assert not target.exists()
    pickle.loads(file.read_bytes())  # the file is dangerous indeed
    assert target.exists()


def test_pickles_of_today_are_read_too(written, tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    file = tmp_path / "cifar-10-batches-py/test_batch"
    file.write_bytes(pickle.dumps(official(), 4))
    np.testing.assert_array_equal(cifar10("test", tmp_path, "python").images, COLOUR[5])


def test_no_array_of_the_pickle_is_built(written, monkeypatch):
    def never(*arguments):
        raise AssertionError("numpy ran on what a pickle says")

    reconstruct = "numpy._core.multiarray._reconstruct"
    monkeypatch.setattr(reconstruct, never)
    assert len(cifar10("test", written, "python")) == SMALL


# --- data sets and batches ------------------------------------------------------------------------

SET = IndexedDataset(torch.arange(40, dtype=torch.uint8).reshape(20, 2), torch.arange(20) % 4)


def test_indexed_dataset_scales_bytes_and_keeps_the_rest():
    index, x, label = SET[[3, 0]]
    assert index.tolist() == [3, 0]
    torch.testing.assert_close(x, torch.tensor([[6.0, 7.0], [0.0, 1.0]]) / 255)
    assert label.tolist() == [3, 0]
    one = SET[-1]
    assert (int(one[0]), one[1].shape, int(one[2])) == (19, (2,), 3)
    symmetric = IndexedDataset(torch.tensor([[0, 255]], dtype=torch.uint8), value_range=(-1.0, 1.0))
    assert symmetric[0][1].tolist() == [-1.0, 1.0]
    floats = IndexedDataset(torch.rand(3, 2))
    assert torch.equal(floats[torch.arange(3)][1], floats.tensors[0])
    assert len(list(SET)) == 20


def test_subsets_share_memory_and_keep_global_indices():
    inner = SET.subset([5, 9, 2]).subset([2, 0])
    assert inner[[0, 1]][0].tolist() == [2, 5]
    assert inner.tensors[0].data_ptr() == SET.tensors[0].data_ptr()


def test_data_loader_takes_whole_batches():
    sampler = [Batches(SET, 6, 3).positions(step) for step in range(4)]
    loader = DataLoader(SET, sampler=sampler, batch_size=None)
    for (index, x, _), positions in zip(loader, sampler, strict=True):
        assert torch.equal(index, positions)
        assert x.shape == (6, 2)


@given(
    st.integers(2, 60), st.integers(0, 9), st.lists(st.floats(0.1, 0.45), min_size=1, max_size=2)
)
def test_split_is_disjoint_reproducible_and_of_the_right_size(size, seed, fractions):
    dataset = IndexedDataset(torch.zeros(size, 1))
    if any(round(size * fraction) < 2 for fraction in fractions):
        return
    parts = split(dataset, fractions, seed)
    rows = [part.index.tolist() for part in parts]
    assert len(set().union(*rows)) == sum(map(len, rows)) <= size
    assert abs(len(parts[0]) - fractions[0] * size) <= 0.5 + 1e-6
    for part, fraction in zip(parts, fractions, strict=True):
        assert abs(len(part) - fraction * size) <= 1
    assert rows == [part.index.tolist() for part in split(dataset, fractions, seed)]


def test_split_of_everything_and_of_groups():
    parts = split(SET, [0.5, 0.3, 0.2], 1)
    assert [len(part) for part in parts] == [10, 6, 4]
    assert torch.cat([part.index for part in parts]).sort().values.tolist() == list(range(20))
    assert parts[0].index.tolist() != split(SET, [0.5, 0.3, 0.2], 2)[0].index.tolist()
    groups = ["a"] * 7 + ["b"] * 7 + ["c"] * 3 + ["d"] * 3
    first, second = split(SET, [0.5, 0.5], 0, groups)
    seen = [{groups[i] for i in part.index.tolist()} for part in (first, second)]
    assert seen[0].isdisjoint(seen[1])
    assert seen[0] | seen[1] == set("abcd")


@pytest.mark.parametrize(
    "convert",
    [
        list,
        np.array,
        torch.tensor,
        lambda g: [(i // 2, f"{i}") for i in g],
        lambda g: [np.int32(i) if i else 0.0 for i in g],
        lambda g: map(str, g),
    ],
)
def test_groups_of_every_type(convert):
    """Numbers, arrays, tensors, tuples, iterators: no group is cut."""
    numbers = [i // 4 for i in range(20)]
    parts = split(SET, [0.6, 0.4], 3, convert(numbers))
    seen = [{numbers[i] for i in part.index.tolist()} for part in parts]
    assert seen[0].isdisjoint(seen[1])
    assert sorted(map(len, seen)) == [2, 3]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1.0, 2.0], np.nan), ValueError, "shift: nan"),
        (([1.0], 0.5), ValueError, r"rows: shape \(1,\)"),
        (([1.0, np.nan], 0.5), ValueError, "rows: 1 entries are NaN"),
        ((["a", "b"], 0.5), TypeError, "rows: dtype"),
        ((3.0, 0.5), ValueError, r"rows: shape \(\)"),
    ],
)
def test_bad_rows_of_a_shifted_detector(arguments, error, message):
    with pytest.raises(error, match=message):
        shift_detector(*arguments)


def test_unpaired_pools():
    source, target = unpaired(SET, "shuffled", 1)
    assert source.index.tolist() == list(range(20))
    assert sorted(target.index.tolist()) == list(range(20))
    assert sum(a == b for a, b in zip(source.index, target.index, strict=True)) < 6
    source, target = unpaired(SET, "disjoint", 1)
    assert len(source) == len(target) == 10
    assert set(source.index.tolist()).isdisjoint(target.index.tolist())


def test_imbalanced_has_the_proportions_and_is_as_large_as_possible():
    labels = SET.tensors[1]  # five of each of four classes
    found = imbalanced(SET, labels, {0: 0.75, 2: 0.3, 3: 0.0}, seed=4)
    counts = torch.bincount(labels[found.index], minlength=4)
    assert counts.tolist() == [5, 0, 2, 0]
    again = imbalanced(SET, labels, {0: 0.75, 2: 0.3}, seed=4)
    assert torch.equal(found.index, again.index)
    drawn = {tuple(imbalanced(SET, labels, {0: 1, 2: 0.4}, s).index.tolist()) for s in range(9)}
    assert len(drawn) > 1


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 3), st.integers(0, 200))
def test_batches_are_slices_of_a_stream_of_permutations(size, batch_size, seed, step):
    dataset = IndexedDataset(torch.zeros(size, 1))
    drawn = Batches(dataset, batch_size, seed)
    fresh = Batches(dataset, batch_size, seed).positions(step)  # no replay
    steps = -(-size * 3 // batch_size)
    stream = torch.cat([drawn.positions(s) for s in range(steps)])[: 3 * size]
    for epoch in stream.split(size):
        assert sorted(epoch.tolist()) == list(range(size))
    assert torch.equal(drawn.positions(step), fresh)


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_ranks_have_contiguous_parts_of_one_global_batch(world_size):
    for step in (0, 3, 11):
        whole = Batches(SET, 12, 5).positions(step)
        parts = [Batches(SET, 12, 5).positions(step, r, world_size) for r in range(world_size)]
        assert torch.equal(torch.cat(parts), whole)


def test_batches_resume_anywhere_and_differ_between_seeds_and_epochs():
    all_of_them = list(batches(SET, 8, 2, steps=9))
    resumed = list(batches(SET, 8, 2, first=4, steps=5))
    for (index, x, label), again in zip(all_of_them[4:], resumed, strict=True):
        assert torch.equal(index, again[0])
        assert torch.equal(x, again[1])
        assert torch.equal(label, again[2])
    drawn = Batches(SET, 20, 2)
    assert not torch.equal(drawn.positions(0), drawn.positions(1))
    assert not torch.equal(drawn.positions(0), Batches(SET, 20, 3).positions(0))
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    drawn.positions(7)
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002


def test_subsets_are_batched_by_their_own_samples():
    part = SET.subset([4, 8, 15])
    index, x, _ = Batches(part, 3, 0).batch(2)
    assert sorted(index.tolist()) == [4, 8, 15]
    torch.testing.assert_close(x[:, 0] * 255, 2.0 * index)


# --- real files -----------------------------------------------------------------------------------


@real("mnist")
def test_real_mnist():
    train, test = mnist("train", ROOT), mnist("test", ROOT)
    assert train.images.shape == (60000, 1, 28, 28)
    assert test.images.shape == (10000, 1, 28, 28)
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert torch.bincount(test.labels).tolist()[:3] == [980, 1135, 1032]


@real("cifar10_lossless4k.npz")
@real("cifar10_jpeg60k.npz")
def test_real_cifar10_jpeg_is_lossy_and_disjoint_from_the_lossless_file():
    from dro_torch.data.images import decode_jpeg, lossless

    _, exact = lossless(ROOT)
    with np.load(ROOT / "cifar10_jpeg60k.npz") as found:
        train = np.flatnonzero(~found["is_test"])
    chosen = train[exact["jpeg60k_index"][:200]]
    pixels, labels = decode_jpeg(ROOT / "cifar10_jpeg60k.npz", chosen)
    np.testing.assert_array_equal(labels, exact["label"][:200])
    error = pixels.astype(float) - np.moveaxis(exact["images"][:200].astype(float), 3, 1)
    decibels = 10 * np.log10(255**2 / (error**2).mean(axis=(1, 2, 3)))
    assert 29 < np.median(decibels) < 32


@real("caltech101_rgb64.npz")
def test_real_caltech101():
    test = caltech101("test", ROOT)
    assert (test.images.shape, len(test.classes)) == ((561, 3, 64, 64), 95)
    assert len(caltech101("train", ROOT)) == 3741 - 561


@real("ct_axial_hu256.npz")
def test_real_ct_slices():
    parts = {name: ct_slices(name, ROOT) for name in ("train", "validation", "test")}
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 136,
        "validation": 8,
        "test": 64,
    }
    patients = [set(part.patients) for part in parts.values()]
    assert sum(map(len, patients)) == len(set().union(*patients)) == 12


@real("htc2022_real_sinograms.npz")
def test_real_htc2022_reconstructs_to_its_mask():
    """Filtered back-projection by an independent implementation, Otsu's threshold.

    With the detector axis reversed the source is on the other side and the image turned by half.
    Lines that were measured from both sides count half: which they are depends on the convention.
    """
    scan = htc2022("tb", ROOT)
    rows = scan.sinogram.double().numpy()[:, ::-1]
    detectors, pixel = rows.shape[1], scan.detector_pixel_mm
    magnification = scan.source_detector_mm / scan.source_origin_mm
    t = (np.arange(detectors) - (detectors - 1) / 2) * pixel / magnification  # at the centre
    spacing = pixel / magnification
    lags = np.arange(-detectors + 1, detectors)
    odd = lags % 2 == 1
    ramp = np.where(odd, -1 / (np.pi * np.where(odd, lags, 1) * spacing) ** 2, 0.0)
    ramp[detectors - 1] = 1 / (4 * spacing**2)
    distance = scan.source_origin_mm
    degrees, fan = np.rad2deg(scan.angles.numpy()), np.rad2deg(np.arctan2(t, distance))
    measured = np.zeros(720, bool)
    measured[np.round(2 * degrees).astype(int) % 720] = True
    opposite = degrees[:, None] + 180 + 2 * fan
    twice = measured[np.round(2 * opposite).astype(int) % 720]
    weighted = rows * distance / np.hypot(distance, t) / (1 + twice)
    length = 2048
    filtered = np.fft.irfft(
        np.fft.rfft(weighted, length)
        * np.fft.rfft(np.roll(np.pad(ramp, (0, length - len(ramp))), -(detectors - 1))),
        length,
    )[:, :detectors]
    coarse = 4
    size = scan.image_size // coarse
    side = (np.arange(size) - (size - 1) / 2) * scan.image_pixel_mm * coarse
    x, y = np.meshgrid(side, side[::-1])
    image = np.zeros((size, size))
    for view, angle in zip(filtered, scan.angles.tolist(), strict=True):
        across = x * np.cos(angle) + y * np.sin(angle)
        depth = 1 - (-x * np.sin(angle) + y * np.cos(angle)) / distance
        image += np.interp(across / depth, t, view, left=0, right=0) / depth**2
    image = np.rot90(image, 2)
    mask = scan.mask.numpy().reshape(size, coarse, size, coarse).mean(axis=(1, 3)) > 0.5
    counts, edges = np.histogram(image, 256)
    below = np.cumsum(counts) / counts.sum()
    moment = np.cumsum(counts * edges[:-1]) / counts.sum()
    with np.errstate(all="ignore"):
        between = (moment[-1] * below - moment) ** 2 / (below * (1 - below))
    found = image > edges[np.nanargmax(between[:-1]) + 1]
    assert (found & mask).sum() / (found | mask).sum() >= 0.95


# --- damaged files --------------------------------------------------------------------------------


def rewrite(name, content):
    """Replace a file: bytes, or a function of the old bytes; None removes it."""

    def damage(root):
        path = root / name
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content(path.read_bytes()) if callable(content) else content)

    return damage


def rearrange(name, **arrays):
    """Replace arrays of an .npz file; None removes one."""

    def damage(root):
        with np.load(root / name) as found:
            kept = {key: found[key] for key in found.files} | arrays
        np.savez(root / name, **{key: array for key, array in kept.items() if array is not None})

    return damage


def both(*damages):
    return lambda root: [damage(root) for damage in damages]


TRAIN = "mnist/train-images-idx3-ubyte.gz"
TEST = "mnist/t10k-images-idx3-ubyte"
LABELS = "mnist/t10k-labels-idx1-ubyte"
BINARY, PYTHON = "cifar-10-batches-bin/test_batch.bin", "cifar-10-batches-py/test_batch"
JPEG, EXACT = "cifar10_jpeg60k.npz", "cifar10_lossless4k.npz"
CALTECH, CT, HTC = "caltech101_rgb64.npz", "ct_axial_hu256.npz", "htc2022_real_sinograms.npz"
SCAN = "slice00007/mode2"


def read_mnist(root):
    return mnist("test", root), mnist("train", root)


def read_binary(root):
    return cifar10("test", root)


def read_python(root):
    return cifar10("test", root, "python")


def read_jpeg(root):
    return cifar10("train", root, "jpeg60k", "lossless4k")


def read_lossless(root):
    return cifar10("test", root, "lossless4k")


def read_scan(root):
    return load_2detect(root, 7, 2, raw_shape=(VIEWS, PIXELS))


OBJECTS = np.array([{"a": 1}], dtype=object)
DAMAGED = [
    (read_mnist, rewrite(TEST, None), FileNotFoundError, "t10k-images.*not found; put it there"),
    (read_mnist, rewrite(TEST, b""), DataFileError, "magic number ''"),
    (read_mnist, rewrite(TEST, lambda b: b"\x01" + b[1:]), DataFileError, "magic number '0100080"),
    (read_mnist, rewrite(TEST, lambda b: b[:2] + b"\x07" + b[3:]), DataFileError, "magic number"),
    (read_mnist, rewrite(TEST, lambda b: b[:10]), DataFileError, "ends inside the header of 3"),
    (read_mnist, rewrite(TEST, lambda b: b[:-1]), DataFileError, "truncated: .*IDX files of MNIST"),
    (read_mnist, rewrite(TEST, lambda b: b + b"\0"), DataFileError, "too long"),
    (read_mnist, rewrite(TEST, idx(DIGITS[:, :27])), DataFileError, r"shape \(7, 27, 28\)"),
    (read_mnist, rewrite(TEST, idx(DIGITS, 9)), DataFileError, "int8 array"),
    (read_mnist, rewrite(TRAIN, lambda b: b[: len(b) // 2]), DataFileError, "cannot be decompres"),
    (read_mnist, rewrite(TRAIN, b"no gzip"), DataFileError, "cannot be decompressed"),
    (read_mnist, rewrite(TRAIN, lambda b: b[:50] + bytes(50) + b[100:]), DataFileError, "decompre"),
    (read_mnist, rewrite(LABELS, idx(DIGIT_LABELS[:6])), DataFileError, "7 images, but 6 labels"),
    (read_mnist, rewrite(LABELS, idx(DIGIT_LABELS + 5)), DataFileError, "label 10 of image 4"),
    (
        read_mnist,
        both(rewrite(LABELS, idx(DIGIT_LABELS[:0])), rewrite(TEST, idx(DIGITS[:0]))),
        DataFileError,
        "no images",
    ),
    (read_binary, rewrite(BINARY, None), FileNotFoundError, r"test_batch.bin: not found.*kriz"),
    (read_binary, rewrite(BINARY, lambda b: b[:-1]), DataFileError, "61459 bytes instead of 61460"),
    (read_binary, rewrite(BINARY, lambda b: b"\x0a" + b[1:]), DataFileError, "label 10 of image 0"),
    (read_python, rewrite(PYTHON, None), FileNotFoundError, "test_batch: not found"),
    (read_python, rewrite(PYTHON, lambda b: b[:-100]), DataFileError, "not an official batch"),
    (read_python, rewrite(PYTHON, b"garbage"), DataFileError, "not an official batch"),
    (read_python, rewrite(PYTHON, pickle.dumps({b"data": 1})), DataFileError, "not an official"),
    (
        read_python,
        rewrite(PYTHON, pickle.dumps(official(COLOUR[5].reshape(-1, 3072).astype("i4")), 2)),
        DataFileError,
        "not an official",
    ),
    (
        read_python,
        rewrite(PYTHON, python2_pickle(COLOUR[5].reshape(-1, 1024), [])),
        DataFileError,
        r"shape \(60, 1024\)",
    ),
    (
        read_python,
        rewrite(PYTHON, pickle.dumps(official(labels=["a"]), 4)),
        DataFileError,
        "no list of integers",
    ),
    (
        read_python,
        rewrite(PYTHON, pickle.dumps(official(labels=[1]), 4)),
        DataFileError,
        "20 images, but 1 labels",
    ),
    (
        read_python,
        rewrite(PYTHON, pickle.dumps(official(labels=[10**30] * SMALL), 4)),
        DataFileError,
        "too large",
    ),
    (read_jpeg, rewrite(JPEG, None), FileNotFoundError, "cifar10_jpeg60k.npz: not found"),
    (read_jpeg, rewrite(EXACT, None), FileNotFoundError, "cifar10_lossless4k.npz: not found"),
    (read_jpeg, rewrite(JPEG, lambda b: b[: len(b) // 2]), DataFileError, "not a zip archive"),
    (read_jpeg, rearrange(JPEG, offset=None), DataFileError, "no array 'offset', only"),
    (read_jpeg, rearrange(JPEG, scan=np.zeros(9, np.uint8)), DataFileError, "inconsistent"),
    (read_jpeg, rearrange(JPEG, header=np.zeros(9, np.uint8)), DataFileError, "no JPEG stream"),
    (read_jpeg, rearrange(EXACT, jpeg60k_index=np.array([1, 5])), DataFileError, "leaves 0 to 4"),
    (read_lossless, rearrange(EXACT, label=np.array([1])), DataFileError, r"'label' has shape"),
    (read_lossless, rearrange(EXACT, images=np.zeros((2, 32, 32, 3))), DataFileError, "float64"),
    (read_lossless, rearrange(EXACT, label=OBJECTS), DataFileError, "cannot be read as .npz"),
    (
        read_lossless,
        rewrite(EXACT, lambda b: b[:300] + bytes(200) + b[500:]),
        DataFileError,
        "cannot be read as .npz",
    ),
    (
        lambda root: caltech101("test", root),
        rearrange(CALTECH, label=np.full(5, 7)),
        DataFileError,
        "label 7 of image 0; there are 3 classes",
    ),
    (
        lambda root: caltech101("test", root),
        rearrange(CALTECH, is_test=np.zeros(5, bool)),
        DataFileError,
        "no images",
    ),
    (
        lambda root: ct_slices(root=root),
        rearrange(CT, is_test=np.arange(8) >= 5),
        DataFileError,
        "patient P1 is in both splits",
    ),
    (
        lambda root: ct_slices(root=root),
        rearrange(CT, hu=np.zeros((8, 4, 5), np.int16)),
        DataFileError,
        r"\(8, 4, 5\), not \(N, S, S\)",
    ),
    (
        lambda root: ct_slices(root=root),
        rearrange(CT, hu=(ct_arrays()["hu"] + 1024).astype(np.uint16)),
        DataFileError,
        "'hu' has dtype uint16, but .* below zero .* offset",
    ),
    (
        lambda root: ct_slices(root=root),
        rearrange(CT, hu=ct_arrays()["hu"] + np.int16(1024)),
        DataFileError,
        "'hu' has no entry below zero, but .*air is -1000",
    ),
    (
        lambda root: ct_slices(root=root),
        rearrange(CT, hu=np.random.default_rng(0).random((8, 4, 4))),
        DataFileError,
        "'hu' has no entry below zero",
    ),
    (
        lambda root: ct_slices(root=root),
        rearrange(CT, hu=np.full((8, 4, 4), np.nan)),
        DataFileError,
        "'hu' has NaN or infinite entries",
    ),
    (
        lambda root: ct_slices(root=root),
        rearrange(CT, hu=np.full((8, 4, 4), -np.inf)),
        DataFileError,
        "'hu' has NaN or infinite entries",
    ),
    (
        lambda root: ct_slices(root=root),
        rearrange(CT, pixel_mm=np.full(8, np.nan, np.float32)),
        DataFileError,
        "pixel_mm is not positive",
    ),
    (
        lambda root: ct_slices(root=root),
        rearrange(CT, pixel_mm=np.zeros(8, np.float32)),
        DataFileError,
        "pixel_mm is not positive",
    ),
    (
        lambda root: htc2022("tb", root),
        rearrange(HTC, tb_sinogram=np.full((3, 6), np.nan)),
        DataFileError,
        "NaN",
    ),
    (
        lambda root: htc2022("tb", root),
        rearrange(HTC, tb_sinogram=np.zeros((6, 3))),
        DataFileError,
        r"'tb_sinogram' has shape \(6, 3\), not \(3, D\) \(axes swapped\?\)",
    ),
    (
        lambda root: htc2022("tb", root),
        rearrange(HTC, tb_angles_deg=np.array([0, 1.57, 3.14])),
        DataFileError,
        "tb_angles_deg: from 0 to 3.14; radians\\?",
    ),
    (
        lambda root: htc2022("tb", root),
        rearrange(HTC, tb_angles_deg=np.array([0, 0.1, 0.2])),
        DataFileError,
        "tb_angles_deg: from 0 to 0.2; radians\\?",
    ),
    (
        lambda root: htc2022("tb", root),
        rearrange(HTC, tb_angles_deg=np.array([0, np.nan, 0.2])),
        DataFileError,
        "NaN",
    ),
    (
        lambda root: htc2022("tb", root),
        rearrange(HTC, tb_angles_deg=np.zeros(2)),
        DataFileError,
        r"'tb_sinogram' has shape \(3, 6\), not \(2, D\)",
    ),
    (
        lambda root: htc2022("tb", root),
        rearrange(HTC, geometry_json=np.array("{")),
        DataFileError,
        "geometry_json is not usable",
    ),
    (
        lambda root: htc2022("tb", root),
        rearrange(HTC, geometry_json=np.array("{}")),
        DataFileError,
        "geometry_json .*distance_source_origin_mm",
    ),
    (
        lambda root: htc2022("tb", root),
        rearrange(HTC, geometry_json=np.array(json.dumps({**GEOMETRY, "n_det": 560}))),
        DataFileError,
        "n_det 560, but 6",
    ),
    (
        lambda root: htc2022("tb", root),
        rearrange(HTC, geometry_json=np.array(json.dumps({**GEOMETRY, "detector_pixel_mm": 0}))),
        DataFileError,
        "detector_pixel_mm: 0.0",
    ),
    (read_scan, rewrite(f"{SCAN}/dark.tif", None), FileNotFoundError, "dark.tif: not found.*2De"),
    (read_scan, rewrite(f"{SCAN}/flat1.tif", b"II*\0"), DataFileError, "cannot be read as TIFF"),
    (read_scan, rewrite(f"{SCAN}/sinogram.tif", lambda b: b[:100]), DataFileError, "TIFF"),
    (
        read_scan,
        rewrite(f"{SCAN}/sinogram.tif", tiff(RAW["sinogram"][:-1])),
        DataFileError,
        r"shape \(8, 12\) instead of \(9, 12\)",
    ),
    (
        read_scan,
        rewrite(f"{SCAN}/sinogram.tif", tiff(RAW["sinogram"].T.copy())),
        DataFileError,
        r"shape \(12, 9\) instead of \(9, 12\) \(axes swapped\?\)",
    ),
    (
        read_scan,
        rewrite(f"{SCAN}/sinogram.tif", tiff(RAW["sinogram"] - np.float32(1000))),
        DataFileError,
        r"negative counts, the first \(-.*\) at \(view, pixel\) \(",
    ),
    (
        read_scan,
        rewrite(f"{SCAN}/dark.tif", tiff(RAW["dark"] - np.float64(1000))),
        DataFileError,
        "dark.tif: negative counts",
    ),
    (
        read_scan,
        both(
            rewrite(f"{SCAN}/flat1.tif", tiff(np.zeros((1, PIXELS), np.uint16))),
            rewrite(f"{SCAN}/flat2.tif", tiff(np.zeros((1, PIXELS), np.uint16))),
        ),
        DataFileError,
        "flat field <= dark field at summed pixel 0",
    ),
    (
        read_scan,
        rewrite(f"{SCAN}/dark.tif", tiff(RAW["dark"].astype(float), compression=8)),
        DataFileError,
        "64-bit floats that are compressed .* store them",
    ),
    (
        read_scan,
        rewrite(f"{SCAN}/dark.tif", lambda b: tiff(RAW["dark"].astype(float))[200:]),
        DataFileError,
        "cannot be read as TIFF",
    ),
    (
        read_scan,
        rewrite(f"{SCAN}/flat2.tif", tiff(np.full((1, PIXELS), np.inf))),
        DataFileError,
        "NaN or infinite",
    ),
    (
        read_scan,
        both(
            rewrite(f"{SCAN}/flat1.tif", tiff(RAW["dark"])),
            rewrite(f"{SCAN}/flat2.tif", tiff(RAW["dark"])),
        ),
        DataFileError,
        "flat field <= dark field at summed pixel 0",
    ),
    (
        read_scan,
        rewrite(f"{SCAN}/flat2.tif", tiff(np.full((1, PIXELS), np.nan, np.float32))),
        DataFileError,
        "NaN or infinite",
    ),
]


@pytest.mark.parametrize(("read", "damage", "error", "message"), DAMAGED)
def test_damaged_files_are_named_with_a_remedy(written, tmp_path, read, damage, error, message):
    root = tmp_path / "root"
    shutil.copytree(written, root)
    read(root)
    damage(root)
    with pytest.raises(error, match=message) as caught:
        read(root)
    assert str(root) in str(caught.value)
    assert "replace it" in str(caught.value) or "put it there" in str(caught.value)


# --- bad arguments --------------------------------------------------------------------------------

BYTES = torch.zeros(4, 2, dtype=torch.uint8)
SCANNED = {"counts": [[5.0, 5.0, 9.0]], "dark": [1.0, 1.0, 1.0], "flat": [9.0, 9.0, 9.0]}
BAD = [
    (mnist, {"split": "validation"}, ValueError, "split: unknown value 'validation'"),
    (mnist, {"folder": "fashion"}, FileNotFoundError, "fashion"),
    (cifar10, {"source": "pickle"}, ValueError, "source: unknown value"),
    (cifar10, {"evaluation": "test"}, ValueError, "evaluation: unknown value"),
    (cifar10, {"source": "lossless4k"}, ValueError, "split: 'train', but lossless4k is an evalu"),
    (caltech101, {"split": "all"}, ValueError, "split: unknown value"),
    (ct_slices, {"units": "hu"}, ValueError, "units: .*did you mean 'HU'"),
    (ct_slices, {"validation_patients": ["Q"]}, ValueError, "validation_patients: unknown .*'Q'"),
    (ct_slices, {"validation_patients": [*CT_PATIENTS[:5]]}, ValueError, "no slices in 'train'"),
    (htc2022, {"name": "tc"}, ValueError, "name: unknown value 'tc'"),
    (load_2detect, {"slice": 5001, "mode": 1}, ValueError, "slice: 5001; allowed: 1 to 5000 and"),
    (load_2detect, {"slice": 0, "mode": 1}, ValueError, "slice: 0"),
    (load_2detect, {"slice": 1, "mode": 4}, ValueError, "mode: 4; allowed: 1, 2, 3"),
    (load_2detect, {"slice": 1, "mode": 1}, FileNotFoundError, "slice00001"),
    (load_2detect, {"slice": 1, "mode": 1, "shift": np.nan}, ValueError, "shift: nan"),
    (load_2detect, {"slice": 1, "mode": 1, "raw_shape": (9, 11)}, ValueError, "raw_shape: .*even"),
    (
        slices_2detect,
        {"folder": "/nowhere"},
        FileNotFoundError,
        "folder: .*nowhere is not a folder",
    ),
    (reference_2detect, {"slice": 5001}, ValueError, "slice: 5001; allowed: 1 to 5000 and"),
    (reference_2detect, {"slice": 1, "mode": 4}, ValueError, "mode: 4; allowed: 1, 2, 3"),
    (reference_2detect, {"slice": 7}, FileNotFoundError, "reconstruction.tif: .*zenodo.8017582"),
    *(
        (transmission, {**SCANNED, **changes}, ValueError, message)
        for changes, message in (
            (
                {"counts": [[5, -1, 9]]},
                "counts: 1 are negative, .*view 0, cell 1; .*raw",
            ),
            (
                {"counts": [[5, 5, 9], [np.nan] * 3]},
                r"counts: 3 entries are NaN or inf.*index \(1, 0\)",
            ),
            ({"counts": [5, 5, 9]}, r"counts: shape \(3,\); .*\(views, cells\)"),
            ({"flat": [9.0, 0.0, 9.0]}, "flat: 0 at cell 1, where the dark field is 1; .*swapped"),
            ({"dark": [9.0, 9.0, 9.0]}, "flat: 9 at cell 0, where the dark field is 9"),
            ({"flat": [9.0, 9.0]}, r"flat: shape \(2,\); needed: \(3,\)"),
            ({"dark": [1.0, np.nan, 1.0]}, "dark: .*NaN"),
        )
    ),
    (IndexedDataset, {}, TypeError, "tensors: one or more"),
    (IndexedDataset, {"tensors": (BYTES, BYTES[:3])}, ValueError, r"tensors: lengths \[4, 3\]"),
    (IndexedDataset, {"tensors": (BYTES.numpy(),)}, TypeError, "tensors: "),
    (IndexedDataset, {"tensors": (BYTES,), "value_range": (1.0, 1.0)}, ValueError, "value_range"),
    (IndexedDataset, {"tensors": (BYTES,), "index": [4]}, IndexError, r"index: 4.*\(0 to 3\)"),
    (IndexedDataset, {"tensors": (BYTES,), "index": []}, ValueError, "index: empty"),
    (SET.subset, {"positions": [0.5]}, TypeError, "positions: dtype torch.float32"),
    (SET.subset, {"positions": [[1]]}, ValueError, "positions: shape"),
    (SET.subset, {"positions": [-1]}, IndexError, "positions: -1"),
    (SET.__getitem__, {"positions": 20}, IndexError, "positions: 20, but there are 20 samples"),
    (split, {"dataset": SET, "fractions": [0.7, 0.4]}, ValueError, "fractions: they sum to 1.1"),
    (split, {"dataset": SET, "fractions": [0.0]}, ValueError, "fractions: 0.0"),
    (split, {"dataset": SET, "fractions": []}, ValueError, "fractions: they sum to 0"),
    (split, {"dataset": SET, "fractions": [0.01]}, ValueError, "subset 0 .*would be empty"),
    (
        split,
        {"dataset": SET, "fractions": [0.5], "groups": "ab"},
        ValueError,
        "groups: 2 entries, but 20 samples",
    ),
    (split, {"dataset": SET, "fractions": [0.5], "groups": 3}, TypeError, "groups: int"),
    (
        split,
        {"dataset": SET, "fractions": [0.5], "groups": set(range(20))},
        TypeError,
        "groups: set; allowed: a sequence",
    ),
    (
        split,
        {"dataset": SET, "fractions": [0.5], "groups": dict.fromkeys(range(20))},
        TypeError,
        "groups: dict; allowed: a sequence",
    ),
    (
        split,
        {"dataset": SET, "fractions": [0.5], "groups": ["a", None] * 10},
        ValueError,
        "groups: entry 1 is None",
    ),
    (
        split,
        {"dataset": SET, "fractions": [0.5], "groups": [1.0] * 19 + [np.nan]},
        ValueError,
        "groups: entry 19 is nan",
    ),
    (
        split,
        {"dataset": SET, "fractions": [0.5], "groups": np.array([2, np.nan] * 10)},
        ValueError,
        "groups: entry 1 is nan",
    ),
    (
        split,
        {
            "dataset": SET,
            "fractions": [0.5],
            "groups": np.array(["2020-01-01", "NaT"] * 10, "datetime64[D]"),
        },
        ValueError,
        "groups: entry 1 is",
    ),
    (
        split,
        {"dataset": SET, "fractions": [0.5], "groups": [("a", np.nan)] * 20},
        ValueError,
        r"groups: entry 0 is \('a', nan\)",
    ),
    (
        split,
        {"dataset": SET, "fractions": [0.5], "groups": ["1"] * 18 + [1, 2]},
        TypeError,
        "groups: entry 18 is 1, but entry 0 is '1'",
    ),
    (
        split,
        {"dataset": SET, "fractions": [0.5], "groups": [["a"]] * 20},
        TypeError,
        r"groups: entry 0 is \['a'\]",
    ),
    (split, {"dataset": SET, "fractions": [0.5], "seed": -1}, ValueError, "seed: -1 is negative"),
    (unpaired, {"dataset": SET, "mode": "random"}, ValueError, "mode: unknown value 'random'"),
    (unpaired, {"dataset": SET.subset([1])}, ValueError, "at least two"),
    (imbalanced, {"dataset": SET, "labels": BYTES[0], "weights": {0: 1}}, ValueError, "labels: sh"),
    (
        imbalanced,
        {"dataset": SET, "labels": [0, None] * 10, "weights": {0: 1}},
        TypeError,
        "labels: .* numbers",
    ),
    (
        imbalanced,
        {"dataset": SET, "labels": ["a", "b"] * 10, "weights": {0: 1}},
        TypeError,
        "labels: .* numbers",
    ),
    (
        imbalanced,
        {"dataset": SET, "labels": [0.0, np.nan] * 10, "weights": {0: 1}},
        ValueError,
        "labels: entry 1 is NaN",
    ),
    (imbalanced, {"dataset": SET, "labels": SET.tensors[1], "weights": {}}, ValueError, "weights:"),
    (
        imbalanced,
        {"dataset": SET, "labels": SET.tensors[1], "weights": {0: -1}},
        ValueError,
        ">= 0",
    ),
    (
        imbalanced,
        {"dataset": SET, "labels": SET.tensors[1], "weights": {0: 1, 9: 1}},
        ValueError,
        "no sample of label",
    ),
    (Batches, {"dataset": SET, "batch_size": 0}, ValueError, "batch_size: 0"),
    (Batches, {"dataset": SET, "batch_size": 4, "seed": 1.5}, TypeError, "seed: 1.5"),
    (Batches(SET, 4).positions, {"step": -1}, ValueError, "step: -1 is negative"),
    (Batches(SET, 4).positions, {"step": 0, "rank": 1}, ValueError, "rank: 1 of 1"),
    (Batches(SET, 4).positions, {"step": 0, "world_size": 3}, ValueError, "batch_size: 4 cannot"),
    (Batches(SET, 4).positions, {"step": True}, TypeError, "step: True is not an integer"),
]


@pytest.mark.parametrize(("function", "arguments", "error", "message"), BAD)
def test_bad_arguments(written, monkeypatch, function, arguments, error, message):
    monkeypatch.setenv("DRO_DATA", str(written))
    arguments = dict(arguments)
    tensors = arguments.pop("tensors", ())
    if function in (load_2detect, reference_2detect):
        arguments["folder"] = written
    with pytest.raises(error, match=message):
        function(*tensors, **arguments)


def test_pillow_is_needed_for_jpeg_and_tiff_only(written, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "PIL", None)
    assert len(cifar10("test", written)) == SMALL
    with pytest.raises(ModuleNotFoundError, match=r"needs Pillow.*structured-dro\[files\]"):
        cifar10("test", written, "jpeg60k")
    with pytest.raises(ModuleNotFoundError, match=r"needs Pillow.*structured-dro\[files\]"):
        load_2detect(written, 7, 2)
