# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The adapters that the authors released: where they come from, their checksums, and the cache."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests
from anomalib.data import AnomalibDataModule, MVTecAD, Visa
from anomalib.utils.path import get_pretrained_weights_dir

from anomalib_aprilgan.clip.configuration import DEMO, DEMO_ADAPTERS, LOCAL, N_STAGES, clip_config

logger = logging.getLogger(__name__)

RELEASE = "https://raw.githubusercontent.com/ByChelsea/VAND-APRIL-GAN/master/exps/pretrained"

TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 3


@dataclass(frozen=True)
class ReleasedAdapters:
    """A file of adapter weights on the web.

    Args:
        url: Address of the file.
        sha256: Checksum of the file, 64 hexadecimal digits.
    """

    url: str
    sha256: str

    @property
    def path(self) -> Path:
        """Path of the file in anomalib's cache of weights."""
        return get_pretrained_weights_dir() / "april_gan" / self.url.rsplit("/", maxsplit=1)[-1]

    def is_intact(self) -> bool:
        """Return whether the file is in the cache with the right content."""
        return self.path.is_file() and pooch.file_hash(self.path) == self.sha256


# Named after the data set they were trained on.
RELEASED_ADAPTERS = {
    "mvtecad": ReleasedAdapters(
        url=f"{RELEASE}/mvtec_pretrained.pth",
        sha256="534a2b9a8893d147d862f30777ff74e957d05a666f73e40250da05d768fe8f48",
    ),
    "visa": ReleasedAdapters(
        url=f"{RELEASE}/visa_pretrained.pth",
        sha256="ef890d2f82e9aba12c838bb90073372f568bc53794a1b6ef88014f733c53f839",
    ),
}

NAMED_ADAPTERS = ("auto", *RELEASED_ADAPTERS)


def shipped_adapters(
    adapters: str | None, backbone: str, pretrained: str | None, layers: Sequence[int] | None
) -> str | None:
    """Return the argument ``adapters``, or the package's file if that means the adapters of its small CLIP.

    "demo" does, and so does "auto" with the demo's backbone, weights and layers.
    """
    ours = (backbone, pretrained, layers) == (DEMO, DEMO, None)
    return str(DEMO_ADAPTERS) if adapters == DEMO or (adapters == "auto" and ours) else adapters


# The backbone that they were trained with, which may also be given as a file: its widths, of layers and joint space.
RELEASED_BACKBONE, RELEASED_WIDTHS = "ViT-L-14-336", (1024, 768)
# Whether adapters are about to come out of a checkpoint.
from_checkpoint: ContextVar[bool] = ContextVar("from_checkpoint", default=False)


def check_backbone(adapters: str | Path | None, backbone: str, layers: Sequence[int] | None) -> None:
    """Say that there are no released adapters for a backbone, before anything is downloaded for it.

    Args:
        adapters: The argument. "auto" is a warning only, because a checkpoint may still bring others.
        backbone: The argument.
        layers: The argument.

    Raises:
        ValueError: If ``adapters`` are released ones.
    """
    if adapters not in NAMED_ADAPTERS or is_released_for(backbone, layers) or from_checkpoint.get():
        return
    here = repr(backbone) + (f" with layers {list(layers)}" if layers else "")
    own = "the one that `anomalib train --config configs/demo.yaml` leaves" if backbone == DEMO else "a checkpoint"
    msg = (
        f"The released adapters ({adapters!r}) are for four layers of {RELEASED_BACKBONE}, not for {here}: give the "
        f"path of a file trained with it as `adapters`, such as {own}, or None to train new ones (docs/training.md)."
    )
    if adapters != "auto":
        raise ValueError(msg)
    logger.warning(msg)


def is_released_for(backbone: str, layers: Sequence[int] | None) -> bool:
    """Return whether the released adapters were trained with this backbone, by its name or, of a file, its widths."""
    config = clip_config(backbone)
    vision = config["vision_cfg"]
    is_file = backbone.endswith(".json") or backbone.startswith(LOCAL)
    return (
        (is_file or backbone.startswith(RELEASED_BACKBONE))
        and (vision.get("width", 768), config["embed_dim"]) == RELEASED_WIDTHS
        and (layers is None or len(layers) == N_STAGES)
    )


def auto_adapters(datamodule: AnomalibDataModule | None) -> str:
    """Return the name of the adapters that were not trained on the data set to be tested."""
    return "visa" if isinstance(datamodule, MVTecAD) else "mvtecad"


def adapters_to_fetch(wanted: str | None, loaded: str | None, datamodule: AnomalibDataModule | None) -> str | None:
    """Return the name of the released adapters that a run needs, or None if what is loaded will do.

    "auto" never tests on the data set that the adapters were trained on.

    Args:
        wanted: The argument ``adapters``.
        loaded: Whose weights the model has, such as a checkpoint's; None: nobody's.
        datamodule: Of the run.
    """
    sources = {"mvtecad": MVTecAD, "visa": Visa}
    if wanted == "auto" and loaded in sources and isinstance(datamodule, sources[loaded]):
        return auto_adapters(datamodule)
    if loaded is not None or wanted is None:
        return None
    return auto_adapters(datamodule) if wanted == "auto" else wanted


def fetch_adapters(name: str) -> Path:
    """Return the cached file of the released adapters ``name``, downloaded if it is missing or damaged.

    Every call compares the checksum.

    Raises:
        ValueError: If there are no released adapters of that name.
        ConnectionError: If the file cannot be downloaded.
        OSError: If it cannot be written to the cache.
        RuntimeError: If the downloaded file has another checksum.
    """
    if name not in RELEASED_ADAPTERS:
        msg = f"`name` must be one of {', '.join(RELEASED_ADAPTERS)}, got {name!r}."
        raise ValueError(msg)
    release = RELEASED_ADAPTERS[name]
    if not release.is_intact():
        _download(release)
    return release.path


def _download(release: ReleasedAdapters) -> None:
    """Download to the cache: into a temporary file, which takes the name only if its checksum is right."""
    path = release.path
    if path.exists():
        logger.warning("%s is damaged: its sha256 is not %s. Downloading it again.", path, release.sha256)
    by_hand = (
        f"Or get the file (sha256 {release.sha256}) by other means and put it at {path}. A file elsewhere can be given "
        "as `adapters`."
    )
    cache = pooch.create(
        path.parent, "", registry={path.name: release.sha256}, urls={path.name: release.url},
        retry_if_failed=ATTEMPTS - 1,
    )  # fmt: skip
    try:
        cache.fetch(path.name, downloader=pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT))
        path.chmod(0o644)  # pooch 1.9 leaves it to its owner alone, but caches may be shared
    except requests.RequestException as error:
        msg = f"Could not download {release.url}: {error}. Check the network and try again. {by_hand}"
        raise ConnectionError(msg) from error
    except OSError as error:
        msg = f"{release.url} could not be kept: {error}. Make {path.parent} a folder that can be written to. {by_hand}"
        raise OSError(msg) from error
    except ValueError as error:
        msg = f"{release.url} is not the file the authors released: {error} Try again. {by_hand}"
        raise RuntimeError(msg) from error
