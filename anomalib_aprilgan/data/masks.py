# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Whether masks belong to their images, in training and in tests."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
from anomalib.data.utils import LabelName

from anomalib_aprilgan.data.images import check_image, check_mask

logger = logging.getLogger(__name__)

NAMED_FILES = 5


def check_test_masks(datamodule: Any) -> None:
    """Check the masks of a data module's validation and test images; those without a mask are not looked at.

    Raises:
        ValueError: If a file can't be read, or a mask has other sides than its image.
    """
    tables = [getattr(getattr(datamodule, name, None), "samples", None) for name in ("val_data", "test_data")]
    tables = [table for table in tables if table is not None and "mask_path" in table]
    if not tables:
        return
    samples = pd.concat(tables).drop_duplicates("image_path")
    has_mask = samples.mask_path.map(lambda path: isinstance(path, str) and Path(path).is_file()).astype(bool)
    check_files(samples[has_mask & (samples.label_index == LabelName.ABNORMAL)], "test")


def check_files(samples: pd.DataFrame, use: str) -> None:
    """Decode all images and masks, and warn of masks that lost information.

    Args:
        samples: anomalib's table of samples, in which every abnormal image has a mask.
        use: What the images are for, in a word.

    Raises:
        ValueError: If some can't be read, or a mask has other sides than its image.
    """
    with ThreadPoolExecutor() as pool:
        problems = [each for each in pool.map(_problem, samples.itertuples()) if each is not None]
    if problems:
        more = f" And {len(problems) - NAMED_FILES} more." if len(problems) > NAMED_FILES else ""
        msg = (
            f"{len(problems)} of {len(samples)} {use} images can't be used; repair or remove them. "
            + " ".join(problems[:NAMED_FILES])
            + more
        )
        raise ValueError(msg)
    masks = samples.mask_path[samples.label_index == LabelName.ABNORMAL]
    lossy = [path for path in masks if Path(path).suffix.lower() in {".jpg", ".jpeg"}]
    if lossy:
        logger.warning(
            "%d masks are JPEG files, such as %s: every pixel that is not 0 counts as a defect, also the noise that "
            "JPEG leaves beside one. Save masks as PNG.",
            len(lossy),
            lossy[0],
        )


def _problem(row: Any) -> str | None:
    """What is wrong with the files of a sample, in words, or None."""
    try:
        width, height = check_image(row.image_path)
        if row.label_index == LabelName.NORMAL:
            return None
        mask_width, mask_height = check_mask(row.mask_path)
    except ValueError as error:
        return str(error)
    if abs(width * mask_height - height * mask_width) > max(width, height):  # more than rounding to whole pixels
        sides = f"{mask_width} x {mask_height} pixels, the image {width} x {height}"
        return f"The mask {row.mask_path} is not of the shape of {row.image_path}: it has {sides}."
    return None
