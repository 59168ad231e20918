# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Workarounds for faults that exports to ONNX meet, seen in anomalib 2.7.0 and torch 2.10 to 2.14."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# torch writes version 18. anomalib asks for 14, to which onnx can't convert every model
# (https://github.com/pytorch/pytorch/pull/161056).
OPSET = 18


def forget_traced_classes() -> None:
    """Remove the copies of model classes that an export has left.

    torch's tracer makes a second class of the model's name. Short names on anomalib's command line (``--model NAME``)
    are ambiguous until the garbage collector removes it.
    """
    gc.collect()


def hide_outputs(path: Path, names: Sequence[str]) -> None:
    """Make outputs of a model file what they are to its inside: named values that a runtime can be asked for.

    anomalib's OpenVINOInferencer passes all outputs to a batch that accepts none but its own.
    """
    import onnx  # noqa: PLC0415  # an extra

    model = onnx.load(path, load_external_data=False)
    for output in [output for output in model.graph.output if output.name in names]:
        model.graph.value_info.append(output)
        model.graph.output.remove(output)
    onnx.save(model, path)


def mark_nodes(path: Path, kind: str, prefix: str) -> None:
    """Begin the names of all nodes that modules of one class made with ``prefix``.

    OpenVINO keeps the names of nodes, but not what torch (2.10 to 2.14) writes down beside them: the modules.

    Args:
        path: Model file.
        kind: Name of the class, with its module.
        prefix: Of names.
    """
    import onnx  # noqa: PLC0415  # an extra

    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        if any(each.key == "namespace" and kind in each.value for each in node.metadata_props):
            node.name = prefix + node.name
    onnx.save(model, path)


def session_with(path: Path, names: Sequence[str], threads: int = 0) -> Any:
    """A session of onnxruntime that gives hidden outputs too.

    Args:
        path: Model file.
        names: Of hidden outputs; those that the file does not have are left out.
        threads: Of the session; 0: as many as the machine has cores.
    """
    import onnx  # noqa: PLC0415  # extras
    import onnxruntime  # noqa: PLC0415

    model = onnx.load(path, load_external_data=False)
    model.graph.output.extend(value for value in model.graph.value_info if value.name in names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    return onnxruntime.InferenceSession(model.SerializeToString(), options)
