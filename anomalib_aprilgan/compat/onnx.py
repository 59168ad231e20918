# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Workarounds for faults that exports to ONNX meet, seen in anomalib 2.7.0 and torch 2.10 to 2.13."""

from __future__ import annotations

import gc

# torch writes version 18. anomalib asks for 14, to which onnx can't convert every model
# (https://github.com/pytorch/pytorch/pull/161056).
OPSET = 18


def forget_traced_classes() -> None:
    """Remove the copies of model classes that an export has left.

    torch's tracer makes a second class of the model's name. Short names on anomalib's command line (``--model NAME``)
    are ambiguous until the garbage collector removes it.
    """
    gc.collect()
