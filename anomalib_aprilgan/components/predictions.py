# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The table of predictions, and what is left out of it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from anomalib.post_processing import PostProcessor
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn

from anomalib_aprilgan.clip.fingerprint import WeightsHash
from anomalib_aprilgan.compat import tiles
from anomalib_aprilgan.compat.lightning import own_loaders, unrepeated
from anomalib_aprilgan.components.checkpoint import describe
from anomalib_aprilgan.components.model_checkpoint import is_dry
from anomalib_aprilgan.components.run_folder import TABLE, RunFolder
from anomalib_aprilgan.data.predict import leave_out_unreadable
from anomalib_aprilgan.target import Target
from anomalib_aprilgan.torch_model import AprilGanModel

logger = logging.getLogger(__name__)

COLUMNS = (
    "image_path",
    "raw_score",
    "pred_score",
    "raw_threshold",
    "threshold",
    "pred_label",
    "gt_label",
    "percentile",
    "threshold_origin",
    "model",
)
NO_THRESHOLD = "no threshold"


class PredictionsTable(RunFolder):
    """Writes a row for each image of a test or prediction to ``predictions.csv``, batch by batch.

    Files of a predicted folder that are no images are left out before, and named in the log.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look at the files, before other processes take copies of the data sets."""
        super().setup(trainer, pl_module, stage)
        if stage == TrainerFn.PREDICTING:
            leave_out_unreadable(own_loaders(trainer))
            if any(isinstance(callback, SaveConfigCallback) for callback in trainer.callbacks):  # type: ignore[attr-defined]
                # anomalib's command line asks for all predictions with their images, and drops them.
                trainer.predict_loop.return_predictions = False

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a new table in a folder of its own."""
        del pl_module
        self._fingerprint = ""
        if is_dry(trainer):
            return
        header = as_text([COLUMNS])
        self._claim(trainer, header)
        table = table_path(trainer)
        if table.name != TABLE:
            table.parent.mkdir(parents=True, exist_ok=True)
            table.write_bytes(header.encode())

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Append the images of the batch that no other process has; the post-processor has completed them."""
        del outputs
        own = unrepeated(batch, trainer, batch_idx, dataloader_idx)
        if own is None or is_dry(trainer):
            return
        self._fingerprint = self._fingerprint or fingerprint(
            pl_module.model, pl_module.model.target, pl_module.uses_pool
        )
        rows = as_text([*batch_rows(own, batch.raw_score.tolist(), pl_module.post_processor, self._fingerprint)])
        with table_path(trainer).open("ab", buffering=0) as file:
            file.write(rows.encode(errors="surrogateescape"))  # in one step: all processes of a run append to one table

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what was found, and where the results are."""
        trainer.strategy.barrier()
        if trainer.is_global_zero and not is_dry(trainer) and tiles.index(trainer) is None:
            folder = Path(trainer.default_root_dir)
            near = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
            logger.info("%s; results in %s", summary(folder / TABLE, pl_module.post_processor), near)

    on_predict_start, on_predict_batch_end, on_predict_end = on_test_start, on_test_batch_end, on_test_end


def table_path(trainer: Trainer) -> Path:
    """Where the predictions are written: one table for a run, or for a tile of an ensemble."""
    tile = tiles.index(trainer)
    return Path(trainer.default_root_dir) / (f"predictions{tile[0]}_{tile[1]}.csv" if tile else TABLE)


def threshold_origin(post_processor: Any) -> str:
    """Where the threshold of image scores comes from, in words; empty: none is known."""
    if not isinstance(post_processor, PostProcessor) or not post_processor.enable_thresholding:
        return ""
    return getattr(post_processor, "threshold_origin", "" if post_processor.image_threshold.isnan() else "validation")


def thresholds(post_processor: Any) -> tuple[float | None, float | None]:
    """The raw and the normalised threshold of image scores; None where it is not known."""
    if not threshold_origin(post_processor):
        return None, None
    raw = float(post_processor.image_threshold) if post_processor.image_sensitivity == 0.5 else None
    return raw, float(post_processor.normalized_image_threshold) if post_processor.enable_normalization else raw


def percentile(score: float, normal_scores: list[float]) -> float | None:
    """How many of the normal images, in percent, have a lower raw score; None where there are none."""
    return 100 * float(np.mean(np.less(normal_scores, score))) if normal_scores else None


def batch_rows(batch: Any, raw_scores: list[float], post_processor: Any, model: str) -> Iterator[tuple[Any, ...]]:
    """The rows of a batch; what is not known is None.

    Args:
        batch: Of predictions, post-processed.
        raw_scores: Of its images, and perhaps of more.
        post_processor: Of the model.
        model: Its fingerprint.
    """
    origin, limits = threshold_origin(post_processor), thresholds(post_processor)
    normal_scores = getattr(post_processor, "normal_scores", [])
    scores, unknown = batch.pred_score.tolist(), [None] * len(batch.pred_score)
    decided = batch.pred_label.tolist() if origin else unknown
    truth = unknown if batch.gt_label is None else batch.gt_label.bool().tolist()
    columns = batch.image_path or unknown, raw_scores, scores, decided, truth
    for path, raw, score, decision, label in zip(*columns, strict=False):
        rank = percentile(raw, normal_scores)
        yield path, raw, score, limits[0], limits[1], decision, label, rank, origin or NO_THRESHOLD, model


def fingerprint(model: AprilGanModel, target: Target, uses_pool: bool = False) -> str:
    """12 hexadecimal digits that depend on all that raw scores are made of: encoder, adapters, prompts, target."""
    facts = [
        describe(model),
        WeightsHash()(model.adapters.state_dict()),
        target.class_name,
        list(target.references.digests or target.references.paths),
        target.references.coreset_sampling_ratio,
        target.score_bounds.tolist(),
        uses_pool,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def summary(table: Path, post_processor: Any) -> str:
    """What a table says: how many images are abnormal, by which threshold."""
    with table.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        labels = [row["pred_label"] for row in csv.DictReader(file)]
    origin, (raw, normalized) = threshold_origin(post_processor), thresholds(post_processor)
    if not origin:
        return f"{len(labels)} images by score; no threshold: normal references or a validation give one"
    value = f"{normalized:.4g} (normalised)" if raw is None else f"{raw:.4g} (raw score)"
    return f"{labels.count('True')} of {len(labels)} abnormal; threshold {value} from {origin}"


def as_text(rows: Iterable[Iterable[Any]]) -> str:
    """Rows of a table as CSV; None is empty."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()
