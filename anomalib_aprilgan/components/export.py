# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Export of AprilGan: what it needs, and what it leaves out."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from anomalib.data import InferenceBatch
from anomalib.models.components.base.export_mixin import ExportMixin
from torch import Tensor, nn

from anomalib_aprilgan.compat.logs import quiet_translation
from anomalib_aprilgan.compat.onnx import OPSET, forget_traced_classes, hide_outputs
from anomalib_aprilgan.components.export_runtimes import RAW

logger = logging.getLogger(__name__)

Module = TypeVar("Module", bound=nn.Module)
HOW_TO_CHECK = "To compare the exported file with the model: aprilgan validate FILE --data FOLDER --checkpoint FILE"


class RawBatch(NamedTuple):
    """anomalib's InferenceBatch and what the model gave before the post-processor."""

    pred_score: Tensor | None
    pred_label: Tensor | None
    anomaly_map: Tensor | None
    pred_mask: Tensor | None
    raw_score: Tensor | None
    raw_map: Tensor | None


class KeepRaw(nn.Module):
    """A post-processor whose output tells the model's too."""

    def __init__(self, post_processor: nn.Module) -> None:
        super().__init__()
        self.post_processor = post_processor

    def forward(self, predictions: InferenceBatch) -> RawBatch:
        """Processed and raw predictions."""
        processed = self.post_processor(predictions)._asdict()
        return RawBatch(**processed, raw_score=predictions.pred_score, raw_map=predictions.anomaly_map)


class AprilGanExport(ExportMixin):
    """anomalib's exports, of a model that is set up and without its text tower."""

    uses_pool: bool
    prepare: Callable[[], None]  # sets up the model as a prediction does first

    def _prepare_export(self) -> None:
        if self.uses_pool:
            msg = "A pool can't be exported: images are compared with all others. Export without `pool`, `pool_source`."
            raise ValueError(msg)
        self.prepare()
        logger.info(HOW_TO_CHECK)

    def to_torch(self, export_root: Path | str, model_file_name: str = "model") -> Path:
        """Path of the model in a pickle, without the text tower.

        Raises:
            ValueError: If the model has a pool.
        """
        self._prepare_export()
        return ExportMixin.to_torch(without_text_tower(self), export_root, model_file_name)

    def to_onnx(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,
    ) -> Path:
        """Path of the model in ONNX, for batches of any size. Its values ``raw_score`` and ``raw_map`` are no outputs.

        Args:
            export_root: Folder in which anomalib makes the folder weights/onnx.
            model_file_name: Name of the file without suffix.
            input_size: Height and width of images in pixels. None: images of any size.
            **kwargs: Further arguments of ``torch.onnx.export``.

        Raises:
            ModuleNotFoundError: If the extra ``onnx`` is not installed.
            ValueError: If the model has a pool.
        """
        for module in ("onnx", "onnxscript"):
            require(module, "onnx")
        self._prepare_export()
        kwargs = {"opset_version": OPSET, "verbose": False, **kwargs}
        with quiet_translation():
            path = ExportMixin.to_onnx(with_raw_values(self), export_root, model_file_name, input_size, **kwargs)
        forget_traced_classes()
        hide_outputs(path, RAW)
        return path

    def to_openvino(self, *args: Any, **kwargs: Any) -> Path:
        """Path of the model in OpenVINO's format.

        Raises:
            ModuleNotFoundError: If the extra ``openvino`` is not installed.
        """
        for module in ("openvino", "nncf"):
            require(module, "openvino")
        return super().to_openvino(*args, **kwargs)


def require(module: str, extra: str) -> None:
    """Check that an optional module is installed.

    Raises:
        ModuleNotFoundError: If it is not, naming our extra that brings it.
    """
    if find_spec(module) is None:
        msg = f"{module!r} is not installed. Install it with: pip install 'anomalib-aprilgan[{extra}]'."
        raise ModuleNotFoundError(msg, name=module)


def without_text_tower(module: Any) -> Any:
    """A copy of an AprilGan whose CLIP can't encode text. All else is the same object in both."""
    images_only = nn.Module()
    images_only.visual = module.model.encoder.clip.visual
    encoder = _with_parts(module.model.encoder, clip=images_only)
    return _with_parts(module, model=_with_parts(module.model, encoder=encoder))


def with_raw_values(module: Any) -> Any:
    """A copy of an AprilGan that returns raw scores and maps besides the processed ones."""
    return _with_parts(module, post_processor=KeepRaw(module.post_processor)) if module.post_processor else module


def _with_parts(module: Module, **parts: nn.Module) -> Module:
    """A copy of a module with some submodules replaced. All else is the same object in both."""
    twin = copy.copy(module)
    twin._modules = {**module._modules, **parts}  # noqa: SLF001  # a plain copy has the same dictionary
    return twin
