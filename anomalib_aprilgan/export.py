# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""What an exported model needs, and what it leaves out."""

from __future__ import annotations

import copy
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeVar

from torch import nn

if TYPE_CHECKING:
    from anomalib_aprilgan.lightning_model import AprilGan

Module = TypeVar("Module", bound=nn.Module)


def require(module: str, extra: str) -> None:
    """Check that an optional module is installed.

    Raises:
        ModuleNotFoundError: If it is not, naming our extra that brings it.
    """
    if find_spec(module) is None:
        msg = f"{module!r} is not installed. Install it with: pip install 'anomalib-aprilgan[{extra}]'."
        raise ModuleNotFoundError(msg, name=module)


def without_text_tower(module: AprilGan) -> AprilGan:
    """A copy of an AprilGan whose CLIP can't encode text any more; the rest is shared."""
    images_only = nn.Module()
    images_only.visual = module.model.encoder.clip.visual
    encoder = _with_parts(module.model.encoder, clip=images_only)
    return _with_parts(module, model=_with_parts(module.model, encoder=encoder))


def _with_parts(module: Module, **parts: nn.Module) -> Module:
    """A copy of ``module`` with some submodules replaced, which shares the rest with it."""
    twin = copy.copy(module)
    twin._modules = {**module._modules, **parts}  # noqa: SLF001  # a plain copy shares this dictionary
    return twin
