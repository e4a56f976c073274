"""What may stand on the command line."""

from __future__ import annotations

import argparse

#: Names of structures that no shell takes for a pipe.
ALIASES = {"y-given-x": "y|x", "x-given-y": "x|y"}


def as_structure_name(text: str) -> str:
    """A structure's name: "y|x" has to be quoted in a shell, "y-given-x" has not."""
    return ALIASES.get(text, text)


def parser() -> argparse.ArgumentParser:
    """The parser of ``structured-dro``."""
    top = argparse.ArgumentParser(
        prog="structured-dro",
        description="Certified worst-case risk of a reconstruction map within a Wasserstein ball.",
    )
    top.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _audit(commands.add_parser("audit", help="a robustness report for a map"))
    _radius(commands.add_parser("radius", help="the radius of a known change, or of field data"))
    _fit(commands.add_parser("fit", help="the linear map with the smallest worst-case risk"))
    commands.add_parser("version", help="versions of what answers rest on")
    return top


def _data(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--data",
        nargs="+",
        required=True,
        metavar="FILE",
        help="pairs: one file (npz, mat, h5) or folder with x and y, or two: signals and "
        "measurements (npy, mat, h5, tif, folders of images or DICOM); FILE::KEY for one array",
    )
    command.add_argument("--weights", metavar="FILE", help="weights of the samples, (N,)")
    command.add_argument("--seed", type=int, default=0, help="of random tests and resampling")


def _reasons(command: argparse.ArgumentParser) -> None:
    reasons = command.add_argument_group("radius (exactly one)")
    reasons.add_argument("--radius", type=float, help="W2 radius in the units of the data")
    reasons.add_argument("--noise", type=float, help="standard deviation in every number of y")
    reasons.add_argument("--photons", type=float, help="photons per unit of y")
    reasons.add_argument(
        "--operator-change", metavar="A2", help="the changed forward operator; needs --forward A"
    )
    reasons.add_argument(
        "--shifted", nargs="+", metavar="FILE", help="pairs from the field, named as in --data"
    )
    command.add_argument("--forward", metavar="A", help="the forward operator, from x to y")


def _structure(command: argparse.ArgumentParser, more: str = "") -> None:
    command.add_argument(
        "--structure",
        action="append",
        type=as_structure_name,
        metavar="NAME",
        help=f"y-given-x, joint, x-given-y ('y|x', 'x|y' in quotes){more}",
    )


def _audit(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--map",
        required=True,
        metavar="MAP",
        help="npy, npz, mat, h5 file with a matrix (FILE::KEY for one of several), module:name or "
        "file.py:name of anything that maps, TorchScript or torch.export file",
    )
    _data(command)
    _reasons(command)
    _structure(
        command,
        ", x (needs --forward) or y (needs --posterior); more than one may be given, the first "
        "leads",
    )
    command.add_argument("--posterior", metavar="P", help="posterior mean for structure y")
    command.add_argument("--linear", action="store_true", help="refuse a map that is not linear")
    command.add_argument("--no-best", action="store_true", help="do not fit the best linear map")
    command.add_argument("--trust", action="store_true", help="read a file that may run code")
    command.add_argument(
        "--output-range", nargs=2, type=float, metavar=("LOW", "HIGH"), help="clamp a network to it"
    )
    command.add_argument("--lipschitz", type=float, help="constant of a network, guaranteed by you")
    command.add_argument("--smoothing", type=float, help="audit a network averaged over this noise")
    command.add_argument("--out", metavar="FOLDER", help="where the report goes")
    command.add_argument("--json", action="store_true", help="print the numbers as JSON")


def _radius(command: argparse.ArgumentParser) -> None:
    _data(command)
    _reasons(command)
    command.add_argument("--json", action="store_true", help="print the numbers as JSON")


def _fit(command: argparse.ArgumentParser) -> None:
    _data(command)
    _reasons(command)
    _structure(command)
    command.add_argument("--epsilon", type=float, default=0.0, help="entropy weight")
    command.add_argument("--out", required=True, metavar="FILE.npy", help="where the matrix goes")
