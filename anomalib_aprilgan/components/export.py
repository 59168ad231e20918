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

from anomalib.data import AnomalibDataModule, InferenceBatch
from anomalib.deploy import CompressionType, ExportType
from anomalib.models.components.base.export_mixin import ExportMixin
from anomalib.models.components.base.export_mixin.utils import create_export_root
from torch import Tensor, nn

from anomalib_aprilgan.clip.encoder import ClipEncoder
from anomalib_aprilgan.compat.logs import quiet_translation
from anomalib_aprilgan.compat.onnx import OPSET, forget_traced_classes, hide_outputs, mark_nodes
from anomalib_aprilgan.components.calibration_images import images_of_datamodule, images_of_references
from anomalib_aprilgan.components.export_runtimes import RAW
from anomalib_aprilgan.components.plain_export import without_text, write_plain
from anomalib_aprilgan.components.quantization import ENCODER_MARK, check_agreement, quantized
from anomalib_aprilgan.torch_model import AprilGanModel

logger = logging.getLogger(__name__)

Module = TypeVar("Module", bound=nn.Module)
INT8 = (CompressionType.INT8, CompressionType.INT8_PTQ)
HOW_TO_CHECK = "Exported to %s. Compare it with its model: aprilgan validate %s --data FOLDER --checkpoint FILE"


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

    model: AprilGanModel
    reference_paths: list[str]
    uses_pool: bool
    prepare: Callable[[], None]  # sets up the model as a prediction does first

    def _prepare_export(self) -> None:
        if self.uses_pool:
            msg = "A pool can't be exported: images are compared with all others. Export without `pool`, `pool_source`."
            raise ValueError(msg)
        self.prepare()

    def to_torch(self, export_root: Path | str, model_file_name: str = "model", weights_only: bool = False) -> Path:
        """Path of the model without the text tower: pickled, as anomalib's TorchInferencer reads it, or without code.

        Args:
            export_root: Folder in which anomalib makes the folder weights/torch.
            model_file_name: Name of the file without suffix.
            weights_only: Write weights and configuration alone, for ``load_export``, which needs no trust in the file.

        Raises:
            ValueError: If the model has a pool or, with ``weights_only``, components of another class.
        """
        self._prepare_export()
        if weights_only:
            path = create_export_root(export_root, ExportType.TORCH) / f"{model_file_name}.pt"
            return announced(write_plain(without_text_tower(self), path))
        return announced(ExportMixin.to_torch(without_text_tower(self), export_root, model_file_name))

    def to_onnx(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        for_openvino: bool = False,
        **kwargs: Any,
    ) -> Path:
        """Path of the model in ONNX, for batches of any size. Its values ``raw_score`` and ``raw_map`` are no outputs.

        Args:
            export_root: Folder in which anomalib makes the folder weights/onnx.
            model_file_name: Name of the file without suffix.
            input_size: Height and width of images in pixels. None: images of any size.
            for_openvino: Mark the encoder's operations by their names, and do not say where the file lies.
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
        if not for_openvino:
            return announced(path)
        mark_nodes(path, f"{ClipEncoder.__module__}.{ClipEncoder.__name__}", ENCODER_MARK)
        return path

    def to_openvino(  # type: ignore[override]  # metric, task and max_drop are those of INT8_ACQ
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        compression_type: CompressionType | str | None = None,
        datamodule: AnomalibDataModule | None = None,
        **kwargs: Any,
    ) -> Path:
        """Path of the model in OpenVINO's format. Models of 8 bits are compared with the float32 model first.

        Args:
            export_root: Folder in which anomalib makes the folder weights/openvino.
            model_file_name: Name of the file without suffix.
            input_size: Height and width of images in pixels. None: images of any size.
            compression_type: "fp16", "int8" (weights) or "int8_ptq" (the encoder's computation too).
            datamodule: To calibrate and check models of 8 bits on. None: the references.
            **kwargs: anomalib's.

        Raises:
            ModuleNotFoundError: If the extra ``openvino`` is not installed.
            ValueError: If the model has a pool, there are no images to check a model of 8 bits on, or it differs too
                much from the float32 model: then no file is written.
        """
        for module in ("openvino", "nncf"):
            require(module, "openvino")
        compression = CompressionType(compression_type) if compression_type else None
        if compression == CompressionType.INT8_ACQ:
            msg = "`compression_type` INT8_ACQ is not offered: take INT8_PTQ, which is compared with float32 too."
            raise ValueError(msg)
        if compression in INT8:
            self._prepare_export()
            if not (datamodule or self.reference_paths):
                msg = "A model of 8 bits is checked on images: give references (`k_shot`) or a data module (`--data`)."
                raise ValueError(msg)
        kwargs["onnx_kwargs"] = {**(kwargs.get("onnx_kwargs") or {}), "for_openvino": True}
        path = super().to_openvino(export_root, model_file_name, input_size, compression, datamodule, **kwargs)
        return announced(path)

    def _compress_ov_model(  # type: ignore[override]  # as above
        self, model: Any, compression_type: CompressionType, datamodule: AnomalibDataModule | None, *_: Any
    ) -> Any:
        side, shape = max(self.model.tiling.size), model.input(0).partial_shape
        size = [shape[2].get_length(), shape[3].get_length()] if shape[2].is_static else [side, side]
        known = [images_of_references(self.reference_paths, side, size)] if self.reference_paths else []
        known += [images_of_datamodule(datamodule, side, size)] if datamodule else []
        small = quantized(model, known[0][0], weights_only=compression_type == CompressionType.INT8)
        check_agreement((model, small), known[-1][1])
        return small


def announced(path: Path) -> Path:
    """The path, after its log."""
    logger.info(HOW_TO_CHECK, path, path)
    return path


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
    encoder = _with_parts(module.model.encoder, clip=without_text(module.model.encoder.clip))
    return _with_parts(module, model=_with_parts(module.model, encoder=encoder))


def with_raw_values(module: Any) -> Any:
    """A copy of an AprilGan that returns raw scores and maps besides the processed ones."""
    return _with_parts(module, post_processor=KeepRaw(module.post_processor)) if module.post_processor else module


def _with_parts(module: Module, **parts: nn.Module) -> Module:
    """A copy of a module with some submodules replaced. All else is the same object in both."""
    twin = copy.copy(module)
    twin._modules = {**module._modules, **parts}  # noqa: SLF001  # a plain copy has the same dictionary
    return twin
