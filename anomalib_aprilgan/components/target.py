# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Brings adapters, target and thresholds of an AprilGan in line with its arguments and with the data of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule
from torchvision.transforms.v2 import Compose, Transform

from anomalib_aprilgan.compat import tiles
from anomalib_aprilgan.compat.lightning import current_datamodule
from anomalib_aprilgan.components.calibration import held_out_scores
from anomalib_aprilgan.components.post_processor import AprilGanPostProcessor
from anomalib_aprilgan.components.pre_processor import transform_of
from anomalib_aprilgan.data.references import ANYTHING, reference_images, resolve_class_name, resolve_references
from anomalib_aprilgan.data.released_adapters import adapters_to_fetch, check_backbone, fetch_adapters
from anomalib_aprilgan.target import HAND, References, TargetRequest
from anomalib_aprilgan.torch_model import AprilGanModel

logger = logging.getLogger(__name__)


class AprilGanTarget(LightningModule):
    """Sets what an AprilGan looks for."""

    model: AprilGanModel
    request: TargetRequest
    adapters: str | None
    loaded_adapters: str | None
    part: str | None  # of a checkpoint
    loaded_part: str | None = None
    pre_processor: Any
    post_processor: Any
    uses_pool: bool
    forget_other_calibration: Callable[[], None]

    def prepare(self) -> None:
        """Set target and thresholds as a prediction would first, which needs no data module."""
        self.set_target()
        target, own = self.model.target, self.post_processor
        if not isinstance(own, AprilGanPostProcessor) or own.is_calibrated:
            return
        if target.references.paths and not self.uses_pool:  # the references' views are not compared with a pool
            scores = held_out_scores(self.model, target, self.reference_transform)
            own.calibrate_on_normal(*scores, self.model.map_upper_bound())

    def on_train_epoch_end(self) -> None:
        """Look for something if nothing was validated: anomalib's GraphLogger calls a model that was only trained."""
        if self.model.class_name is None:
            class_name = self.request.class_name or ANYTHING
            self.model.target = self.model.make_target(class_name, references=References())

    def set_target(self) -> None:
        """Bring adapters and target in line with the arguments and the data, if they are not.

        Raises:
            ValueError: If the model is to be a part of a checkpoint, and none was loaded.
        """
        if self.part and self.part != self.loaded_part:
            msg = f"`part` {self.part!r} is one of a checkpoint's: give the checkpoint (`ckpt_path`)."
            raise ValueError(msg)
        self.load_adapters()
        self.forget_other_calibration()
        datamodule, model = current_datamodule(self), self.model
        class_name = resolve_class_name(self.request, datamodule, model.class_name, model.target_origin)
        by_hand = model.target_origin == HAND and not self.request.k_shot and class_name == model.class_name
        if by_hand or tiles.keep_target(self):
            return
        references = resolve_references(self.request, datamodule, model.references)
        if (class_name, references) == (model.class_name, model.references):
            return
        if getattr(self.post_processor, "is_calibrated", model.class_name is not None):
            logger.warning("Target changed: thresholds need a new validation.")
        logger.info("Class name in the prompts: %s. Reference images: %s", class_name, references)
        model.target = model.make_target(class_name, reference_images(references, self.reference_transform), references)
        self._forget_calibration()

    def load_adapters(self) -> None:
        """Fetch and load named adapters, unless what is loaded, such as a checkpoint's, will do."""
        name = adapters_to_fetch(self.adapters, self.loaded_adapters, current_datamodule(self))
        if name is not None:
            check_backbone(name, self.hparams["backbone"], self.hparams["layers"])
            logger.info("Adapters trained on %s", name)
            self.model.adapters.load_file(fetch_adapters(name))
            self.loaded_adapters = name
            self._forget_calibration()
        elif self.loaded_adapters is None and not self.uses_pool:
            logger.warning("The adapters are untrained: anomaly maps are meaningless. Train them or set `adapters`.")

    def _forget_calibration(self) -> None:
        """Use theoretical ranges: target or adapters are not those that were validated."""
        self.model.set_score_bounds(None)
        if isinstance(self.post_processor, AprilGanPostProcessor) and self.model.class_name is not None:
            self.post_processor.assume_range(self.model.map_upper_bound())

    @property
    def reference_paths(self) -> list[str]:
        """Files of the reference images."""
        return list(self.model.references.paths)

    @property
    def reference_transform(self) -> Transform:
        """What makes a reference image the model's input."""
        return Compose([*tiles.views(self), transform_of(self.pre_processor, self.model.tiling.size)])
