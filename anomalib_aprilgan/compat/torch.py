# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Workarounds for torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class SkipInitialisation(TorchFunctionMode):
    """Leave the parameters of a network as they are allocated, because they are about to be overwritten.

    Drawing random numbers for a ViT-L takes seconds. torch (2.14) has no switch for whole networks
    (https://github.com/pytorch/pytorch/issues/29523): its ``skip_init`` wants constructors with a device, and building
    on the device "meta" loses what is not in a state dict, such as the mask of the text tower.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return the function's result, or its untouched argument if it draws numbers."""
        del types
        if getattr(func, "__module__", None) == "torch.nn.init" or func in {Tensor.normal_, Tensor.uniform_}:
            return args[0] if args else kwargs["tensor"]
        return (torch.empty if func is torch.randn else func)(*args, **(kwargs or {}))
