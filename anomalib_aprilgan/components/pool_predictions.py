# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Predictions of which a pool is a part: the images of the run, or those of a folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from anomalib.pre_processing import PreProcessor
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader

from anomalib_aprilgan.components.parts import KEY
from anomalib_aprilgan.components.pool import Pool, make_pool
from anomalib_aprilgan.data.predict import listed_images, run_loaders, source_loader
from anomalib_aprilgan.data.references import contents
from anomalib_aprilgan.torch_model import AprilGanModel

logger = logging.getLogger(__name__)


def identity(datasets: Sequence[Any]) -> object:
    """What tells the images of data sets from others: their files' contents and augmentations. None: not known."""
    files = [listed_images(dataset) for dataset in datasets]
    if not all(files):
        return None
    changes = [repr(getattr(dataset, "augmentations", None)) for dataset in datasets]
    return changes, {digest for paths in files for digest in contents(paths)}


class AprilGanPool(LightningModule):
    """Fills the pool when a run starts, and adds it to the predictions."""

    model: AprilGanModel
    loaded_adapters: str | None
    calibrated_fraction: float  # the score_fraction with which thresholds were found
    prepare: Callable[[], None]
    _forget_calibration: Callable[[], None]
    set_target: Callable[[], None]

    def use_pool(self, images_of_the_run: bool, source: str | Path | None) -> None:
        """Have images scored by those of the run, or by those of a folder.

        Raises:
            ValueError: If both are asked for.
        """
        if images_of_the_run and source is not None:
            msg = f"Give `pool` (all images of the run) or `pool_source` (a folder, here {str(source)!r}), not both."
            raise ValueError(msg)
        self.pool_source = source
        self.uses_pool = self.calibrated_with_pool = images_of_the_run or source is not None
        self.current_pool: Pool | None = None
        self._images_of_pool: object = None
        self.model.pool_share = int(self.uses_pool)

    def on_validation_start(self) -> None:
        """Set the target, and the pool."""
        self.set_target()  # by now a checkpoint is restored and the model is on its device
        self.fill_pool()

    def on_test_start(self) -> None:
        """Set target, thresholds and the pool."""
        self.prepare()
        self.fill_pool()

    on_predict_start = on_test_start

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note whether thresholds were found with a pool, which is not kept, and of which scores."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[KEY].update(pool=self.calibrated_with_pool, score_fraction=self.calibrated_fraction)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Look whether thresholds were found with a pool, and of which scores."""
        super().on_load_checkpoint(checkpoint)
        self.calibrated_with_pool = checkpoint[KEY].get("pool", False)
        self.calibrated_fraction = checkpoint[KEY].get("score_fraction", 0.0)

    def forget_other_calibration(self) -> None:
        """Use theoretical ranges where a checkpoint's were found with scores of another kind."""
        before, fraction = "with" if self.calibrated_with_pool else "without", self.model.score_fraction
        if self.calibrated_with_pool != self.uses_pool:
            logger.warning("Thresholds were found %s a pool: they need a new validation.", before)
        elif self.calibrated_fraction != fraction:
            found = f"Thresholds were found with `score_fraction` {self.calibrated_fraction:g}, not {fraction:g}"
            logger.warning("%s: they need a new validation.", found)
        else:
            return
        self.calibrated_with_pool, self.calibrated_fraction = self.uses_pool, fraction
        self._forget_calibration()

    def fill_pool(self) -> None:
        """Encode and compare the pool's images, unless these very files were before.

        Raises:
            ValueError: If there are several devices, or no pool can be made.
        """
        trainer: Any = self.trainer
        if not self.uses_pool:
            return
        if trainer.world_size > 1:
            msg = f"A pool is compared by one process, but there are {trainer.world_size}: use --trainer.devices 1."
            raise ValueError(msg)
        loaders = run_loaders(trainer) if self.pool_source is None else [source_loader(self.pool_source)]
        datasets: list[Any] = [loader.dataset for loader in loaders]
        images = identity(datasets)
        if not loaders or (images is not None and images == self._images_of_pool):
            return
        self.current_pool = self._images_of_pool = None  # its files may be large: before others are written
        with trainer.precision_plugin.forward_context():
            shown = trainer.progress_bar_callback is not None
            self.current_pool = make_pool(self.model, self._batches(loaders), sum(map(len, datasets)), shown)
        self._images_of_pool = images

    def _batches(self, loaders: Sequence[DataLoader]) -> Iterator[Any]:
        """Batches as the model gets them."""
        trainer, pre_processor = self.trainer, self.pre_processor
        for loader in loaders:
            for number, loaded in enumerate(loader):
                batch = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(loaded))
                if isinstance(pre_processor, PreProcessor):
                    pre_processor.on_test_batch_start(trainer, self, batch, number)
                getattr(loader.dataset, "thumbnails", {}).clear()  # they are kept when the image is predicted
                yield batch

    def score_batch(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Text scores (B,) and anomaly maps (B, H, W), of which the pool is a part.

        The mean of text and pool score takes the place of the text score, and the pool's map is added, 1 per stage.
        While adapters are untrained, the pool takes the place of text score and zero-shot map.
        """
        model, target, pool = self.model, self.model.target, self.current_pool
        if pool is None:
            return model.score_parts(model.encode(batch.image), target)
        numbers = pool.numbers(batch.image_path)
        known = [number for number in numbers if number is not None]
        whole = len(known) == len(numbers) and model.memory_encoder is None
        encoded = pool.encoded(known, batch.image) if whole else model.encode(batch.image)
        score, pool_maps = pool.rate(encoded, numbers, model.image_size, model.banks.embeddings)
        pool_maps = pool_maps * len(model.adapters.fc)
        if self.loaded_adapters is not None:
            text, anomaly_maps = model.score_parts(encoded, target)
            return (text + score) / 2, anomaly_maps + pool_maps
        if target.is_few_shot:
            score, few_shot_map = model.compare_with_references(encoded, target, score)
            pool_maps = pool_maps + few_shot_map
        return score, pool_maps

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Predictions."""
        if self.current_pool is None:
            return super().predict_step(batch, batch_idx, dataloader_idx)
        text, anomaly_maps = self.score_batch(batch)
        score = self.model.image_score(text, self.model.map_peaks(anomaly_maps))
        return batch.update(pred_score=score, anomaly_map=anomaly_maps)
