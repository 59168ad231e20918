# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""A model on two folders, of good and of bad images, and the thresholds that these suggest."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from anomalib.data import ImageItem
from anomalib.engine import Engine
from torch.utils.data import DataLoader

from anomalib_aprilgan.comparison.report import statistics
from anomalib_aprilgan.comparison.report.content import SAME_IMAGES, needed, of
from anomalib_aprilgan.comparison.report.scores import Scores, read_scores
from anomalib_aprilgan.components.post_processor import AprilGanPostProcessor
from anomalib_aprilgan.data.images import SUFFIXES, readable
from anomalib_aprilgan.data.listing import image_files, is_hidden
from anomalib_aprilgan.data.predict import ImagesToPredict
from anomalib_aprilgan.data.references import contents
from anomalib_aprilgan.lightning_model import AprilGan

logger = logging.getLogger(__name__)


class LabelledImages(ImagesToPredict):
    """Images of two folders, with their labels."""

    labels: Mapping[str, int]

    def __getitem__(self, index: int) -> ImageItem:
        """The image with its path and label."""
        label = self.labels[str(self.image_filenames[index])]
        return replace(super().__getitem__(index), gt_label=torch.tensor(label))


def build(checkpoint: Path | None, arguments: Mapping[str, Any]) -> AprilGan:
    """The model of a checkpoint, or of arguments, or of both.

    Raises:
        ValueError: If an argument is unknown or wrong, or the checkpoint can't be loaded.
    """
    known = list(inspect.signature(AprilGan).parameters)
    unknown = [name for name in arguments if name not in known]
    if unknown:
        msg = f"`model` has no argument {', '.join(unknown)}: it has {', '.join(known)}."
        raise ValueError(msg)
    return AprilGan(**arguments) if checkpoint is None else AprilGan.load_from_checkpoint(checkpoint, **arguments)


def find_images(folders: Sequence[Path]) -> list[dict[str, str]]:
    """The images in and below each folder that can be read, and the hashes of their files.

    What is left out is named in the log.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If a folder has no image, or one image is in two folders.
    """
    found: list[dict[str, str]] = []
    for folder in folders:
        paths = [str(path) for path in readable(image_files(folder))]
        images = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES]
        hidden = [path.name for path in images if is_hidden(path, folder)]
        if hidden:
            logger.warning("Left out of %r: %d hidden files, such as %s", str(folder), len(hidden), hidden[0])
        found.append(dict(zip(paths, contents(paths), strict=True)))
    first, second = ({digest: path for path, digest in each.items()} for each in found)
    both = [f"{first[digest]} is {second[digest]}" for digest in first if digest in second]
    if both:
        msg = f"{len(both)} images are in both folders, such as {both[0]}: an image is either good or bad."
        raise ValueError(msg)
    return found


def predict_folders(model: AprilGan, good: Path, bad: Path, output: Path) -> tuple[Scores, Engine]:
    """The scores of the images of two folders, and what has predicted them; tables and pictures are written.

    Args:
        model: Of any kind.
        good: Folder of normal images. References of the model among them are left out.
        bad: Folder of abnormal images.
        output: Folder of results.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If a folder has no image, or one image is in both.
    """
    sides = find_images([good, bad])
    model.prepare()
    references = [path for path, digest in sides[0].items() if digest in model.model.references.digests]
    if len(references) == len(sides[0]):
        msg = f"All images in {good} are references of the model, which tell nothing: give other good images."
        raise ValueError(msg)
    if references:
        logger.warning("Left out of %r: %d references of the model", str(good), len(references))
    labels = {path: label for label, side in enumerate(sides) for path in side if path not in references}
    dataset = LabelledImages(good)
    dataset.image_filenames, dataset.labels = [*map(Path, labels)], labels
    engine = Engine(default_root_dir=output, logger=False, enable_model_summary=False)
    loader = DataLoader(dataset, batch_size=1, collate_fn=dataset.collate_fn)
    engine.predict(model, dataloaders=loader, return_predictions=False)
    return read_scores(Path(engine.trainer.default_root_dir)), engine


def check_arguments(false_alarm_rate: float | None, escape_rate: float | None, save: Path | None) -> None:
    """Refuse rates that are out of range, and two rates for one threshold, before long work starts.

    Args:
        false_alarm_rate: In [0, 1).
        escape_rate: In [0, 1).
        save: Checkpoint to be written.

    Raises:
        ValueError: If an argument is wrong.
    """
    for name, rate in (("false_alarm_rate", false_alarm_rate), ("escape_rate", escape_rate)):
        if rate is not None and not 0 <= rate < 1:
            msg = f"`{name}` must be in [0, 1), got {rate}."
            raise ValueError(msg)
    if save is not None and save.is_dir():
        msg = f"`save` is the path of a file, {save} is a folder."
        raise ValueError(msg)
    if save is not None and None not in {false_alarm_rate, escape_rate}:
        msg = "`save` writes one threshold: give `false_alarm_rate` or `escape_rate`, not both."
        raise ValueError(msg)


def suggest(scores: Scores, false_alarm_rate: float | None, escape_rate: float | None) -> dict[str, tuple[float, str]]:
    """Thresholds for the rates that are given, by words for them, and how many images these take.

    Args:
        scores: Of normal and abnormal images.
        false_alarm_rate: In [0, 1).
        escape_rate: In [0, 1).
    """
    normal, abnormal, found = scores.normal, scores.abnormal, {}
    if false_alarm_rate is not None:
        note = needed(len(normal), false_alarm_rate)
        cut = statistics.threshold_for_false_alarms(normal, abnormal, false_alarm_rate)
        found[f"At most {100 * false_alarm_rate:g} % false alarms"] = (cut, note)
    if escape_rate is not None:
        note = needed(len(abnormal), escape_rate, "bad")
        found[f"At most {100 * escape_rate:g} % escapes"] = (
            statistics.threshold_for_escapes(normal, abnormal, escape_rate),
            note,
        )
    return found


def lines(scores: Scores, suggested: Mapping[str, tuple[float, str]]) -> list[str]:
    """False alarms and escapes at the present threshold and at those suggested, in words."""
    present = {} if scores.threshold is None else {f"Now, from {scores.origin}": (scores.threshold, "")}
    unknown = [] if present else ["No threshold is known: all decisions are open."]
    return [
        f"{len(scores.values)} images: {len(scores.normal)} good, {len(scores.abnormal)} bad",
        *unknown,
        *(
            line
            for words, (cut, note) in {**present, **suggested}.items()
            for line in (f"{words}: {scores.kind} {cut:.6g}; {_counts(scores, cut)}", *([f"  {note}"] if note else []))
        ),
        f"Intervals: 95 %, Clopper and Pearson. {SAME_IMAGES}",
    ]


def _counts(scores: Scores, cut: float) -> str:
    return (
        f"false alarms {of(statistics.false_alarms(scores.normal, cut), len(scores.normal))}, "
        f"escapes {of(statistics.escapes(scores.abnormal, cut), len(scores.abnormal))}"
    )


def save_threshold(model: AprilGan, engine: Engine, scores: Scores, threshold: float, path: Path) -> None:
    """Write a checkpoint of the model with this threshold of raw image scores.

    Args:
        model: That made the scores. It keeps the threshold too.
        engine: That ran it.
        scores: By which the threshold was chosen.
        threshold: Of raw scores.
        path: Of the checkpoint, written wholly or not at all.

    Raises:
        ValueError: If the model has no post-processor of ours.
    """
    post_processor = model.post_processor
    if not isinstance(post_processor, AprilGanPostProcessor):
        msg = "The model has no AprilGanPostProcessor, which keeps thresholds: build it with `post_processor=True`."
        raise ValueError(msg)
    post_processor.load_state_dict({"_image_threshold": torch.tensor(threshold)}, strict=False)
    post_processor.is_calibrated, post_processor.normal_scores = True, scores.normal.tolist()
    post_processor.calibrated_on = f"{len(scores.normal)} good and {len(scores.abnormal)} bad images"
    engine.trainer.save_checkpoint(path, weights_only=True)
