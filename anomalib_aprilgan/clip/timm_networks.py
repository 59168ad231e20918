# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Networks of timm: their names, and their weights."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import timm
import torch

from anomalib_aprilgan.clip.weights import read_state_dict
from anomalib_aprilgan.compat.huggingface import without_retries_offline
from anomalib_aprilgan.compat.torch import SkipInitialisation


def check_name(backbone: str) -> None:
    """Check that timm knows a network of this name, with or without a tag.

    Raises:
        ValueError: If not, naming those that are called alike.
    """
    name, _, tag = backbone.partition(".")
    known = timm.list_models()
    if name in known:
        known = timm.list_pretrained(f"{name}.*")
        if not tag or backbone in known:
            return
    close = difflib.get_close_matches(backbone, known, n=5)
    msg = (
        f"Unknown `memory_backbone` {backbone!r}: expected a network of timm (timm.list_models() names them)"
        f"{', such as ' if close else ''}{', '.join(close)}."
    )
    raise ValueError(msg)


def untouched(backbone: str) -> Any:
    """A network whose weights hold nothing yet: at once, and without memory."""
    with SkipInitialisation():
        return _create(backbone)


def create(backbone: str, pretrained: bool | str | Path) -> Any:
    """A network without its classifier.

    Args:
        backbone: Name of timm.
        pretrained: True: timm's own weights; path of a file of weights; False: random ones, which are the same every
            time.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If timm has no weights of this name, or those of the file do not fit.
        ConnectionError: If timm's weights are neither cached nor to be downloaded.
    """
    if not pretrained:
        return _create(backbone)
    return _downloaded(backbone) if pretrained is True else _from_file(backbone, Path(pretrained))


def _create(backbone: str, **options: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return timm.create_model(backbone, num_classes=0, **options)


def _downloaded(backbone: str) -> Any:
    with without_retries_offline() as reason:
        try:
            return _create(backbone, pretrained=True)
        except RuntimeError as error:
            msg = f"`memory_pretrained` true: timm has no weights for {backbone!r} ({error}). Give the path of a file."
            raise ValueError(msg) from error
        except OSError as error:
            source = timm.get_pretrained_cfg(backbone)
            msg = (
                f"The weights of {backbone!r} are not in the cache and could not be downloaded "
                f"({reason or f'{type(error).__name__}: {error}'}). Fetch them on another machine from the Hugging "
                f"Face repository {source and source.hf_hub_id} and give the file's path as `memory_pretrained`."
            )
            raise ConnectionError(msg) from error


def _from_file(backbone: str, path: Path) -> Any:
    if not path.is_file():
        msg = f"`memory_pretrained` {str(path)!r} is no file: give the path of one, true (timm's weights) or false."
        raise FileNotFoundError(msg)
    classifier = untouched(backbone).pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier))
    state = {name: value for name, value in read_state_dict(path).items() if not name.startswith(heads)}
    overlay = {"state_dict": state, "num_classes": 0, "label_offset": 0}  # with other classes, timm lets weights lack
    try:
        with SkipInitialisation():
            network = _create(backbone, pretrained=True, pretrained_cfg_overlay=overlay)
    except (RuntimeError, KeyError, AttributeError, TypeError, ValueError) as error:
        msg = f"The weights in {path} do not fit the `memory_backbone` {backbone!r}: {error}"
        raise ValueError(msg) from error
    network.pretrained_cfg.pop("state_dict", None)
    return network
