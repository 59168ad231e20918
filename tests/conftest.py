# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Shared fixtures: the authors' goldens, a tiny CLIP whose weights follow the goldens' rule, anomalib's Engine."""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from hypothesis import settings
from open_clip.model import CLIP
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as pil

from anomalib_aprilgan import AprilGan
from anomalib_aprilgan.clip.configuration import IMAGE_MEAN, IMAGE_STD
from anomalib_aprilgan.data import demo

if "PYTEST_XDIST_WORKER" in os.environ:  # side by side: one thread each, in what tests start too
    torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))
# The same examples every time, however busy the machine is.
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("repeatable")

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
DATASET = GOLDEN / "dataset"
BOLT = DATASET / "bolt"
GOOD = BOLT / "test" / "good"
TINY_CLIP = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 56, "layers": 12, "width": 64, "head_width": 16, "patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
TINY_RESNET = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
    "text_cfg": TINY_CLIP["text_cfg"],
}
GOLDEN_SIZE = 70
GOLDEN_LAYERS = [3, 6, 9, 12]
Engines = Callable[..., Engine]  # the fixture `engine`
Models = Callable[..., AprilGan]  # the fixture `make_model`


def rule_tensor(name: str, shape: torch.Size, seed: int = 7) -> Tensor:
    """The value that the goldens' weight rule gives the parameter ``name``."""
    if len(shape) == 0:
        return torch.tensor(np.log(1 / 0.07), dtype=torch.float32)
    draw = np.random.RandomState(zlib.crc32(f"{seed}:{name}".encode())).standard_normal(shape)
    noise = torch.from_numpy(draw.astype(np.float32))
    if name.endswith("running_var"):
        return 1 + 0.1 * noise.abs()
    if len(shape) == 1:
        return 1 + 0.1 * noise if name.endswith(".weight") else 0.05 * noise
    return noise / np.sqrt(np.prod(shape[1:]))


def resize_pil(image: Image.Image, size: int, kernel: Image.Resampling) -> Image.Image:
    """An image resized by Pillow, first its rows, then its columns: from version 13 on Pillow chooses the order."""
    return image.resize((size, image.height), kernel).resize((size, size), kernel)


def read_pil(path: Path, size: int = GOLDEN_SIZE) -> Tensor:
    """An image (3, H, W), preprocessed by PIL as the authors do."""
    image = resize_pil(Image.open(path).convert("RGB"), size, Image.Resampling.BICUBIC)
    return pil.normalize(pil.to_tensor(image), IMAGE_MEAN, IMAGE_STD)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The user's cache is neither read nor written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def golden_data(category: str = "bolt", **options: object) -> MVTecAD:
    """A data module of the goldens' data set, read in this process."""
    return MVTecAD(DATASET, category, **{"num_workers": 0, **options})


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engines:
    """Makes a quiet Engine on the CPU whose results lie in the given folder, else in a temporary one."""

    def make(folder: str | Path | None = None, **options: object) -> Engine:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        options = {"accelerator": "cpu", "devices": 1, **quiet, **options}
        return Engine(default_root_dir=folder or tmp_path_factory.mktemp("engine"), **options)

    return make


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    """All arrays of the goldens."""
    with np.load(GOLDEN / "golden.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def golden_images(golden: dict[str, np.ndarray]) -> Tensor:
    """The 18 test images (18, 3, 70, 70), preprocessed by PIL."""
    return torch.stack([read_pil(DATASET / path) for path in golden["image_paths"]])


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny.json, tiny.pt (weights by the goldens' rule) and resnet.json."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / "tiny.json").write_text(json.dumps(TINY_CLIP))
    (folder / "resnet.json").write_text(json.dumps(TINY_RESNET))
    state = CLIP(**TINY_CLIP).state_dict()
    torch.save({name: rule_tensor(name, tensor.shape) for name, tensor in state.items()}, folder / "tiny.pt")
    return folder


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo data set, reduced to the categories coins and gravel."""
    root = tmp_path_factory.mktemp("demo") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "CATEGORIES", ["coins", "gravel"])
        demo.make_demo_data(root)
    return root


@pytest.fixture(scope="session")
def tiny_arguments(clip_folder: Path) -> dict:
    """Arguments that make AprilGan the goldens' model: tiny CLIP, image size 70, the golden adapters."""
    return {
        "backbone": str(clip_folder / "tiny.json"),
        "pretrained": str(clip_folder / "tiny.pt"),
        "image_size": GOLDEN_SIZE,
        "layers": GOLDEN_LAYERS,
        "adapters": str(GOLDEN / "adapters.pth"),
    }


@pytest.fixture(scope="session")
def make_model(tiny_arguments: dict) -> Models:
    """Makes the goldens' model, which draws no images, with other arguments where given."""
    return lambda **options: AprilGan(**{**tiny_arguments, "visualizer": False, **options})


@pytest.fixture
def _no_log() -> Iterator[None]:
    """Keeps the log off the standard output, to which anomalib's command line has sent it if it ran before."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(disabled)
