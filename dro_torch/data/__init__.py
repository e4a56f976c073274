r"""Data sets from local files, and batches that depend on nothing but (seed, step).

The samples of the experiments of both papers (DRO paper, section 6). In go files, seeds and steps;
out come tensors with the global numbers of their samples. Below are the checks of `dro_core`; above
are `dro_torch.tomography`, transport maps and the experiments.

Nothing is downloaded: files lie in a *data root*, the argument `root` or the environment variable
``DRO_DATA``. Every file is checked (magic number, shapes, counts, ranges); what is wrong with it,
where it is expected and where it comes from is in the error. Formats, sources and licences are in
the documentation, page "Data". No file can run code: arrays are read without pickles, and the
official pickles of CIFAR-10 by a reader that builds only containers of the standard library.

Images come as uint8 tensors (N, channels, height, width), sinograms as float32 (views, detector
pixels). `IndexedDataset` hands them out as float32 with the *global* index of every sample, which
keys its noise; `Batches` says which samples step s sees, on any number of processes.
"""

from dro_torch.data.files import DataFileError, data_root, read_idx
from dro_torch.data.images import LabelledImages, caltech101, cifar10, mnist
from dro_torch.data.sampling import (
    Batches,
    IndexedDataset,
    batches,
    imbalanced,
    split,
    unpaired,
)
from dro_torch.data.tomography import (
    CTSlices,
    FanBeamScan,
    ct_slices,
    htc2022,
)
from dro_torch.data.two_detect import (
    load_2detect,
    reference_2detect,
    shift_detector,
    slices_2detect,
    transmission,
)

__all__ = [
    "data_root",
    "mnist",
    "cifar10",
    "caltech101",
    "ct_slices",
    "htc2022",
    "load_2detect",
    "reference_2detect",
    "slices_2detect",
    "LabelledImages",
    "CTSlices",
    "FanBeamScan",
    "DataFileError",
    "read_idx",
    "shift_detector",
    "transmission",
    "IndexedDataset",
    "Batches",
    "batches",
    "split",
    "unpaired",
    "imbalanced",
]
