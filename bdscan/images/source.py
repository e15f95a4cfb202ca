"""Clean images read from disk: folders, tars, arrays and torchvision's data sets, decoded only when chosen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

from bdscan.facts.deadline import check_time
from bdscan.facts.problem import Problem, unusable
from bdscan.images import arrays, folders
from bdscan.images.classes import by_model
from bdscan.images.decode import UNREADABLE, PictureReader, channels, fit_to
from bdscan.images.doubts import MIN_PER_CLASS, Labels, class_doubts, copy_doubts, decoding_doubts
from bdscan.images.image_set import ImageSet

MAX_IMAGES = 5000  # enough for every probe; more only costs time
_MAX_DECODED_BYTES = 1 << 30  # decoded; 7,000 pictures of 224 x 224
_MAX_ENLARGEMENT = 2.0  # scale beyond which a net sees blur it was not trained on
_HEADERS_SAMPLED = 32  # headers read to tell the size


@dataclass(frozen=True, eq=False)
class Source:
    """Images that were listed but not yet decoded."""

    spec: str
    names: tuple[str, ...]  # classes as the source names them
    index: tuple[int, ...]  # each image's place in `names`
    files: tuple[str, ...]
    read: PictureReader
    doubts: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return len(self.index)

    @cached_property
    def size(self) -> tuple[int, int, int] | None:
        """Channels, height and width if they are the same in a sample of the headers."""
        sampled = np.unique(np.linspace(0, self.count - 1, _HEADERS_SAMPLED).astype(int)).tolist()
        sizes = set()
        for _, picture in self.read(sampled):
            if not isinstance(picture, Exception):
                sizes.add((channels(picture), picture.height, picture.width))
        return sizes.pop() if len(sizes) == 1 else None

    def everything(self, shape: tuple[int, int, int], names: tuple[str, ...] | None = None) -> ImageSet:
        """All images, to train on: the order is the source's, and nobody vouches for them."""
        labels, names = self._labels(names)
        return self._decoded(list(range(self.count)), shape, labels, names)

    def load(
        self,
        shape: tuple[int, int, int],
        names: tuple[str, ...] | None = None,
        limit: int | None = None,
        seed: int = 0,
    ) -> ImageSet:
        """A class-balanced choice, decoded at the net's size, its labels in the order of the model's `names`."""
        if shape[0] not in (1, 3):
            raise Problem(f"the net takes {shape[0]} channels; images have one or three")
        labels, names = self._labels(names)
        if limit is None:
            room = max(1, _MAX_DECODED_BYTES // int(np.prod(shape)))
            limit = min(max(MAX_IMAGES, MIN_PER_CLASS * len(self.names)), room)
        clean = self._decoded(_balanced(labels, limit, seed), shape, labels, names)
        return replace(clean, doubts=(*clean.doubts, *class_doubts(labels, names), *copy_doubts(clean.images)))

    def _labels(self, names: tuple[str, ...] | None) -> tuple[Labels, tuple[str, ...]]:
        """Of all images, and what they are called: as the model does, where its `names` are given."""
        places, names = by_model(self.names, names, self.spec)
        return np.asarray(places)[list(self.index)], names

    def _decoded(
        self, chosen: list[int], shape: tuple[int, int, int], labels: Labels, names: tuple[str, ...]
    ) -> ImageSet:
        images = torch.empty((len(chosen), *shape), dtype=torch.uint8)
        decoded, failed, small = list[int](), list[tuple[str, Exception]](), 0
        for i, picture in self.read(chosen):
            check_time()
            try:
                if isinstance(picture, Exception):
                    raise picture
                images[len(decoded)] = fit_to(picture, shape)
            except UNREADABLE as error:
                failed.append((self.files[i], error))
            else:
                decoded.append(i)
                small += max(shape[1] / picture.height, shape[2] / picture.width) > _MAX_ENLARGEMENT
        doubts = [*self.doubts, *decoding_doubts(failed, len(chosen))]
        if small > len(decoded) / 2:
            size = f"{shape[2]}x{shape[1]}"
            doubts.append(f"{small} of {len(decoded)} images are less than half the net's {size}: enlarged, blurred")
        files = tuple(self.files[i] for i in decoded)
        return ImageSet(images[: len(decoded)], torch.from_numpy(labels[decoded]), names, tuple(doubts), files)


def open_images(spec: str, *, training: bool = False) -> Source:
    """A folder, `.npz` or `.tar`, or `cifar10:ROOT` and its like; nothing is decoded yet.

    Of data sets that come in parts it is the test images, or those for `training`.
    """
    kind, colon, rest = spec.partition(":")
    if colon and kind.lower() in _SETS and not Path(spec).exists():
        return _data_set(spec, kind.lower(), Path(rest).expanduser(), training)
    path = Path(spec).expanduser()
    if path.is_dir():
        return _folder(spec, path)
    if not path.is_file():
        message = f"no images at `{spec}`: there is no such file or folder"
        raise unusable(message, f"a folder, .npz, .tar, or one of {', '.join(_SETS)} followed by `:ROOT`")
    if path.suffix == ".npz":
        return _of_arrays(spec, arrays.npz(path))
    if path.name.endswith((".tar", ".tar.gz", ".tgz")):
        listing, places = folders.list_tar(path)
        return _source(spec, listing, partial(folders.read_tar, path, places))
    raise unusable(f"`{spec}` is no form of images that bdscan reads", "a folder, .npz or .tar")


def _folder(spec: str, path: Path) -> Source:
    listing = folders.list_folder(path)
    return _source(spec, listing, partial(folders.read_folder, path, listing.files))


def _data_set(spec: str, kind: str, root: Path, training: bool) -> Source:
    if not root.is_dir():
        raise unusable(f"no images at `{spec}`: `{root}` is not a folder", "nothing is downloaded")
    try:
        if kind == "imagefolder":
            return _folder(spec, root)
        if kind == "gtsrb":
            pictures, files, classes = arrays.gtsrb(root, training)
            return _source(spec, folders.PictureList(classes, files), partial(folders.read_folder, pictures, files))
        if (kind, training) in _CIFAR:
            return _of_arrays(spec, arrays.cifar(root, *_CIFAR[kind, training]))
        return _of_arrays(spec, arrays.through_torchvision(_SETS[kind], root, training))
    except (OSError, RuntimeError, KeyError, ValueError, IndexError, ImportError) as error:
        part = "training" if training else "test"
        message = f"`{root}` does not hold the {part} images of {_SETS[kind]}: {error}"
        raise unusable(message, "the layout is the one torchvision downloads") from error


_SETS = {
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "gtsrb": "GTSRB",
    "mnist": "MNIST",
    "fashionmnist": "FashionMNIST",
    "svhn": "SVHN",
    "stl10": "STL10",
    "imagefolder": "ImageFolder",
}
_CIFAR = {  # by kind, and whether for training
    ("cifar10", False): ("cifar-10-batches-py", ["test_batch"], "labels", "batches.meta", "label_names"),
    ("cifar10", True): (
        "cifar-10-batches-py",
        [f"data_batch_{i}" for i in range(1, 6)],
        "labels",
        "batches.meta",
        "label_names",
    ),
    ("cifar100", False): ("cifar-100-python", ["test"], "fine_labels", "meta", "fine_label_names"),
    ("cifar100", True): ("cifar-100-python", ["train"], "fine_labels", "meta", "fine_label_names"),
}


def _of_arrays(spec: str, picture_arrays: arrays.Arrays) -> Source:
    files = [f"{spec}[{i}]" for i in range(len(picture_arrays.labels))]
    listing = folders.PictureList(picture_arrays.classes(), files)
    return _source(spec, listing.checked(spec), picture_arrays, picture_arrays.names)


def _source(spec: str, listing: folders.PictureList, read: PictureReader, names: tuple[str, ...] = ()) -> Source:
    class_names = {*listing.classes, *listing.empty}
    numbers = all(name.isdecimal() for name in class_names)
    names = names or tuple(sorted(class_names, key=(lambda name: (int(name), name)) if numbers else None))
    place = {name: i for i, name in enumerate(names)}
    index = tuple(place[name] for name in listing.classes)
    return Source(spec, names, index, tuple(listing.files), read, tuple(listing.doubts))


def _balanced(labels: Labels, limit: int, seed: int) -> list[int]:
    """Round and round the classes, one seeded draw from each, until the limit is reached."""
    rank = np.empty(len(labels), dtype=np.int64)
    generator = np.random.default_rng(seed)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank[members] = generator.permutation(len(members))
    chosen: list[int] = np.sort(np.lexsort((labels, rank))[:limit]).tolist()
    return chosen
