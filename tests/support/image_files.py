"""Image data sets as they are published, small: CIFAR's pickles, an npz, folders of pictures."""

from __future__ import annotations

import pickle

import numpy as np
from PIL import Image

CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()


def rows(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), np.uint8)


def batch(count, seed=0):
    return {"batch_label": "a batch", "labels": [n % 10 for n in range(count)], "data": rows(count, seed)}


def write_cifar10(folder, count=10, protocol=2, **changed):
    """The published layout; `changed` replaces the content of files, bytes as they are."""
    home = folder / "cifar-10-batches-py"
    home.mkdir(parents=True, exist_ok=True)
    files = {f"data_batch_{n}": batch(count, n) for n in range(1, 6)}
    files |= {"test_batch": batch(count, 6), "batches.meta": {"label_names": CIFAR10, "num_vis": 3072}} | changed
    for name, content in files.items():
        if content is not None:
            data = content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol)
            (home / name).write_bytes(data)
    return folder


def write_cifar100(folder, count=100):
    home = folder / "cifar-100-python"
    home.mkdir(parents=True)
    names = [f"kind {n}" for n in range(100)]
    content = {"data": rows(count), "fine_labels": list(range(100)), "coarse_labels": [0] * 100}
    for name, value in {"train": content, "test": content, "meta": {"fine_label_names": names}}.items():
        (home / name).write_bytes(pickle.dumps(value, protocol=2))
    return folder


def write_npz(folder, **changed):
    folder.mkdir(parents=True, exist_ok=True)
    pixels = rows(4).reshape(4, 3, 32, 32).transpose(0, 2, 3, 1)
    labels = np.array([0, 99, 5, 5])
    arrays = {
        "x_train": pixels,
        "y_train": labels,
        "coarse_train": labels,
        "x_test": pixels,
        "y_test": labels,
    } | changed
    np.savez(folder / "cifar100.npz", **{name: array for name, array in arrays.items() if array is not None})
    return folder


def write_pictures(folder, test="test", classes=("cat", "dog"), size=(5, 4), mode="RGB", suffix="png", each=2):
    generator = np.random.default_rng(1)
    for split in ("train", test):
        for name in classes:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for number in range(each):
                pixels = generator.integers(0, 256, (size[1], size[0], 3), np.uint8)
                Image.fromarray(pixels).convert(mode).save(folder / split / name / f"{number}.{suffix}")
    return folder
