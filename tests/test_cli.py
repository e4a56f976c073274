"""The command line: files in, a report out; what is wrong is one line and the status 2."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from scipy import sparse
from scipy.io import savemat

from dro_core import audit, fit_linear, radius_of_operator_change
from dro_core.cli import main
from dro_core.cli.files import load_array, load_pairs
from dro_core.cli.maps import load_map


@pytest.fixture
def here(rng, tmp_path, monkeypatch):
    """A folder with a map and pairs in it, which is where the user stands."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    B, x, y = (rng.standard_normal(s) for s in ((4, 3), (12, 4), (12, 3)))
    np.save("B.npy", B)
    np.savez("pairs.npz", x=x, y=y)
    np.save("x.npy", x)
    np.save("y.npy", y)
    return tmp_path, B, x, y


def run(capsys, line):
    status = main(line.split())
    return status, *capsys.readouterr()


def numbers(capsys, line):
    status, out, err = run(capsys, line + " --json")
    assert (status, err) == (0, "")
    return json.loads(out)


def test_from_files_to_a_report(here, capsys):
    folder, B, x, y = here
    line = "audit --map B.npy --data pairs.npz --noise 0.1 --structure joint --out report"
    status, out, err = run(capsys, line)
    assert (status, err) == (0, "")
    assert out.strip().endswith("report.html")
    found = json.loads((folder / "report" / "audit.json").read_text())
    expected = audit(B, x, y, noise=0.1, structures="joint")
    assert found["structures"]["joint"]["upper"] == expected.leading.upper
    assert found["command"] == "structured-dro " + line
    assert "structured-dro audit --map B.npy" in (folder / "report/report.html").read_text()


@pytest.mark.parametrize(
    ("words", "structures"),
    [
        ("", ["y|x", "joint", "x|y"]),
        ("--structure x-given-y --structure y-given-x", ["x|y", "y|x"]),
        ("--structure x|y", ["x|y"]),
    ],
)
def test_structures_have_names_for_shells(here, capsys, words, structures):
    found = numbers(capsys, f"audit --map B.npy --data x.npy y.npy --radius 1 {words}")
    assert list(found["structures"]) == structures


def test_options_reach_the_library(here, capsys, rng):
    _, B, x, y = here
    A = rng.standard_normal((3, 4))
    np.save("A.npy", A)
    np.save("A2.npy", A + 0.1)
    weights = rng.dirichlet(np.ones(12))
    np.save("w.npy", weights)
    found = numbers(
        capsys,
        "audit --map B.npy --data x.npy y.npy --operator-change A2.npy --forward A.npy "
        "--structure x --structure y --posterior B.npy --weights w.npy --no-best --linear --seed 3",
    )
    expected = radius_of_operator_change(A, A + 0.1, x, weights=weights)
    assert found["radius"]["value"] == pytest.approx(expected)
    assert found["nominal_risk"] == pytest.approx(weights @ ((x - y @ B.T) ** 2).sum(axis=1))
    assert list(found["structures"]) == ["x", "y"]
    assert found["best_linear_missing"] == "not asked for"
    shifted = numbers(capsys, "audit --map B.npy --data x.npy y.npy --shifted x.npy y.npy")
    assert shifted["radius"]["value"] == 0.0
    assert shifted["field_risk"] == pytest.approx(shifted["nominal_risk"])


def test_radius_fit_and_version(here, capsys):
    _, _, x, y = here
    assert numbers(capsys, "radius --data pairs.npz --noise 2")["value"] == pytest.approx(12**0.5)
    status, out, _ = run(capsys, "radius --data pairs.npz --radius 0.25")
    assert (status, out) == (0, "radius 0.25: given\n")
    status, out, _ = run(capsys, "fit --data pairs.npz --radius 0.5 --out new/map.npy")
    assert status == 0
    assert "certificate holds" in out
    assert np.load("new/map.npy") == pytest.approx(fit_linear(x=x, y=y, radius=0.5).matrix)
    status, out, _ = run(capsys, "version")
    assert status == 0
    assert f"numpy {np.__version__}" in out


def test_a_map_is_fitted_for_structures_without_a_map_of_their_own(here, capsys):
    status, _, err = run(capsys, "fit --data pairs.npz --radius 1 --structure x --out B1.npy")
    assert status == 2
    assert "structure: 'x'; a map is fitted for y-given-x, joint or x-given-y" in err
    assert not (here[0] / "B1.npy").exists()


def test_the_module_is_the_command(here):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "dro_core", "radius", "--data", "pairs.npz",
         "--radius", "1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "radius 1: given\n", "")


# --- maps


def test_maps_by_name(here, capsys):
    folder, B, _, _ = here
    (folder / "mine.py").write_text(
        "import numpy as np\nB = np.load('B.npy')\n"
        "class Net:\n    def __init__(self): self.B = B\n"
        "    def __call__(self, y): return y @ self.B.T\n"
        "    def make(): return Net()\n"
        "def wave(y): return y @ B.T + np.sin(y @ B.T)\n"
    )
    sparse.save_npz("sparse.npz", sparse.csr_array(B))
    np.savez("many.npz", other=B.T, B=B)
    savemat("five.mat", {"B": B})
    savemat("two.mat", {"first": B.T, "second": sparse.csc_array(B)})
    upper = {
        numbers(capsys, f"audit --map {name} --data pairs.npz --radius 1 --no-best")["structures"][
            "y|x"
        ]["upper"]
        for name in (
            "B.npy",
            "sparse.npz",
            "many.npz",
            "five.mat",
            "two.mat::second",
            "mine:B",
            "mine.py:B",
            "mine:Net()",
            "mine:Net.make()",
        )
    }
    assert max(upper) == pytest.approx(min(upper), rel=1e-9)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.filterwarnings("ignore:.torch.jit.*deprecated:DeprecationWarning")
def test_networks_in_files_of_torch(here, capsys, rng):
    torch = pytest.importorskip("torch", reason="torch is optional")
    _, _, x, y = here
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    torch.jit.trace(net, torch.zeros(2, 3)).save("net.ts")
    found = numbers(capsys, "audit --map net.ts --data pairs.npz --radius 0.5 --structure y|x")
    answer = found["structures"]["y|x"]
    assert not found["linear"]
    assert answer["certificate_holds"]
    plain = audit(net, x, y, radius=0.5, structures="y|x").leading
    assert answer["lower"] == pytest.approx(plain.lower, rel=0.05)
    assert plain.lower <= plain.upper
    torch.save(net, "module.pt")
    torch.save(net.state_dict(), "weights.pt")
    for name, message in (
        ("module.pt", "may run code; --trust reads it"),
        ("weights.pt", "holds weights (OrderedDict), not a network; name an object"),
        ("net.pt2", "there is no such file"),
    ):
        status, _, err = run(capsys, f"audit --map {name} --data pairs.npz --radius 1 --json")
        assert status == 2
        assert message in err
    trusted = numbers(
        capsys, "audit --map module.pt --trust --data pairs.npz --radius 0.5 --structure y|x"
    )
    assert trusted["structures"]["y|x"]["lower"] == pytest.approx(plain.lower)
    torch.export.save(torch.export.export(net, (torch.zeros(12, 3),)), "net.pt2")
    assert run(capsys, "audit --map net.pt2 --data pairs.npz --radius 1 --json")[0] == 2


# --- data


def test_pairs_in_every_format(here, capsys, rng):
    folder, _, x, y = here
    savemat("pairs.mat", {"x": x, "y": y})
    (folder / "both").mkdir()
    np.save("both/x.npy", x)
    np.savez("both/y.npz", anything=y)
    for names in (
        ["pairs.npz"], ["x.npy", "y.npy"], ["pairs.mat"], ["both"],
        ["pairs.mat::x", "pairs.npz::y"],
    ):  # fmt: skip
        found = load_pairs(names)
        assert np.array_equal(found[0], x)
        assert np.array_equal(found[1], y)


def test_images_and_stacks(here, rng):
    image_module = pytest.importorskip("PIL.Image", reason="pillow is optional")
    folder = here[0]
    grey, colour = (rng.integers(0, 256, s, dtype=np.uint8) for s in ((3, 5, 4), (3, 5, 4, 3)))
    deep = rng.random((3, 5, 4)).astype(np.float32)
    for name, frames in (("grey", grey), ("colour", colour)):
        (folder / name).mkdir()
        for k, frame in enumerate(frames):
            image_module.fromarray(frame).save(folder / name / f"{k}.png")
    pages = [image_module.fromarray(frame) for frame in deep]
    pages[0].save(folder / "deep.tif", save_all=True, append_images=pages[1:])
    assert np.array_equal(load_array("grey"), grey)
    assert np.array_equal(load_array("colour"), np.moveaxis(colour, -1, 1))
    assert np.array_equal(load_array("deep.tif"), deep)
    image_module.fromarray(grey[0, :2]).save(folder / "grey" / "9.png")
    with pytest.raises(ValueError, match=r"9.png has shape \(2, 4\), but 0.png has \(5, 4\)"):
        load_array("grey")


def test_hdf5_of_matlab_and_of_fastmri(here, rng):
    h5py = pytest.importorskip("h5py", reason="h5py is optional")
    image = rng.random((3, 4, 4))
    space = rng.random((3, 4, 4)) + 1j * rng.random((3, 4, 4))
    with h5py.File("scan.h5", "w") as file:
        file["reconstruction_rss"], file["kspace"] = image, space
        file["deep/mask"] = np.ones(3)
    found = load_pairs(["scan.h5"])
    assert np.array_equal(found[0], image)
    assert np.array_equal(found[1], space)
    assert np.array_equal(load_array("scan.h5::deep/mask"), np.ones(3))
    with h5py.File("seven.mat", "w", userblock_size=512) as file:
        file["x"] = image.T  # as MATLAB writes an array: axes reversed
        record = np.zeros(space.T.shape, dtype=[("real", float), ("imag", float)])
        record["real"], record["imag"] = space.T.real, space.T.imag
        file["y"] = record
    with open("seven.mat", "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file")
    found = load_pairs(["seven.mat"])
    assert np.array_equal(found[0], image)
    assert np.array_equal(found[1], space)


def test_a_dicom_series_is_in_order_and_in_units(here, rng):
    pydicom = pytest.importorskip("pydicom", reason="pydicom is optional")
    folder = here[0] / "series"
    folder.mkdir()
    pixels = rng.integers(0, 1000, (3, 4, 5), dtype=np.uint16)
    for k, name in enumerate(("c", "a", "b")):
        data = pydicom.Dataset()
        data.Rows, data.Columns, data.InstanceNumber = 4, 5, k
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 0, 1
        data.PhotometricInterpretation = "MONOCHROME2"
        data.RescaleSlope, data.RescaleIntercept = 2.0, -1000.0
        data.PixelData = pixels[k].tobytes()
        data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        data.SOPInstanceUID = f"1.2.3.{k + 1}"
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        data.save_as(folder / f"{name}.dcm", enforce_file_format=True)
    assert np.array_equal(load_array(folder), 2.0 * pixels - 1000.0)


@pytest.mark.parametrize(
    ("module", "name", "package"),
    [("h5py", "a.h5", "h5py"), ("PIL.Image", "a.png", "Pillow"), ("pydicom", "a.dcm", "pydicom")],
)
def test_a_missing_extra_is_named(here, capsys, monkeypatch, module, name, package):
    monkeypatch.setitem(sys.modules, module, None)
    (here[0] / name).write_bytes(b"something")
    status, _, err = run(capsys, f"radius --data {name} y.npy --radius 1")
    assert status == 2
    assert f"needs {package}, which is not installed" in err
    assert "pip install 'structured-dro[files]'" in err


# --- what is wrong


def _bad_files(folder):
    (folder / "text.npy").write_text("no array")
    (folder / "cut.npz").write_bytes((folder / "pairs.npz").read_bytes()[:200])
    (folder / "map.pkl").write_bytes(b"\x80\x04.")
    np.save("objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez("objects.npz", B=np.array([{}], dtype=object), allow_pickle=True)
    (folder / "broken.py").write_text("raise RuntimeError('no licence')\n")
    (folder / "fine.py").write_text(
        "def square(y): return y @ __import__('numpy').ones((3, 4)) ** 1 * y[:, :1] ** 2\n"
        "class Net: pass\ndef fails(): raise ValueError('no weights')\n"
    )
    x, y = np.load("x.npy"), np.load("y.npy")
    np.savez("nan.npz", x=x, y=np.where(y > 0, y, np.nan))
    np.savez("unpaired.npz", x=x, y=y[:7])
    np.savez("names.npz", a=x, b=y)
    np.save("transposed.npy", np.load("B.npy").T)
    (folder / "empty").mkdir()


GOOD = "audit --map B.npy --data pairs.npz --radius 1 --out report"
WRONG = [
    ("--map nothing.npy", "nothing.npy: there is no such file"),
    ("--map text.npy", "text.npy: cannot be read ("),
    ("--map map.pkl", "map.pkl: a pickle runs code when read"),
    ("--map objects.npy", "objects.npy: cannot be read ("),
    ("--map README.md", "README.md: there is no such file"),
    ("--map objects.npz", "objects.npz::B: cannot be read (Object arrays cannot be loaded"),
    ("--map fine.py", "fine.py: suffix '.py'; allowed: .npy"),
    ("--map no_such_module:B", "importing no_such_module failed (ModuleNotFoundError"),
    ("--map broken:B", "broken:B: importing broken failed (RuntimeError: no licence)"),
    ("--map fine:wrong", "has no 'wrong'"),
    ("--map fine:Net", "fine:Net: a class; name an instance, or call it: fine:Net()"),
    ("--map fine:fails()", "calling it failed (no weights)"),
    ("--map fine:square --linear", "not linear, although linear=True"),
    ("--map transposed.npy", "the transpose would fit"),
    ("--map x.npy", "it takes 4 numbers, but a sample of y has 3 and it gives 12 numbers"),
    ("--map pairs.npz::z", "pairs.npz: key: unknown value 'z'"),
    ("--data nan.npz", "entries are NaN"),
    ("--data unpaired.npz", "y: 7 samples, but x has 12"),
    ("--data names.npz", "has a, b, none of them called x (signals); name them: --data"),
    ("--data cut.npz", "cut.npz: cannot be read"),
    ("--data x.npy", "x.npy: one array; a pair needs two"),
    ("--data empty", "empty: 0 entries called x"),
    ("--data x.npy empty", "empty: no images"),
    ("--data x.npy y.npy y.npy", "data: 3 names"),
    ("--structure z", "structures: unknown value 'z'"),
    ("--structure x", "structure: 'x' needs a map, --forward FILE"),
    ("--structure joint --structure y", "structure: 'y' needs a map, --posterior FILE"),
    ("--noise 1", "radius: radius and noise given"),
    ("--operator-change B.npy", "operator-change: needs the operator that changed"),
    ("--weights y.npy", "weights: shape (12, 3)"),
    ("--out pairs.npz", "pairs.npz: there is a file; name a folder"),
    ("--out empty/..", "a folder with other things in it"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[words for words, _ in WRONG])
def test_what_is_wrong_is_one_line(here, capsys, words, message):
    folder = here[0]
    _bad_files(folder)
    before = {p.relative_to(folder) for p in folder.rglob("*") if "__pycache__" not in p.parts}
    option = words.split()[0]
    line = GOOD.split()
    if option in ("--map", "--data", "--out"):
        at = line.index(option)
        del line[at : at + 2]
    status, out, err = run(capsys, " ".join([*line, words]))
    assert (status, out) == (2, "")
    assert err.startswith("structured-dro: error: ")
    assert err.count("\n") == 1
    assert message in err
    after = {p.relative_to(folder) for p in folder.rglob("*") if "__pycache__" not in p.parts}
    assert after == before


def test_a_traceback_is_shown_when_asked_for(here):
    with pytest.raises(FileNotFoundError):
        main(["--traceback", *GOOD.replace("B.npy", "no.npy").split()])


def test_no_pickle_is_read(here):
    """Whatever the suffix: a file that would run code does not."""
    ran = []

    class Evil:
        def __reduce__(self):
            return ran.append, (1,)

    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.array([Evil()], dtype=object), allow_pickle=True)
    here[0].joinpath("evil.npy").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="cannot be read"):
        load_map("evil.npy")
    assert ran == []


def test_usage_without_a_command(capsys):
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert "COMMAND" in capsys.readouterr().err
