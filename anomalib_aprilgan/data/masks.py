# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The masks of a data set, and whether they and its images can be used, in training and in tests."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from anomalib.data.utils import LabelName
from torch import Tensor

from anomalib_aprilgan.compat.masks import is_lossy, read_mask
from anomalib_aprilgan.data.images import check_header, check_image, check_mask
from anomalib_aprilgan.data.listing import NAMED_FILES, leave_hidden_out_of

logger = logging.getLogger(__name__)


def mask_files(value: Any) -> list[str]:
    """The files of an image's mask as a table of samples has them: one, several (MVTec LOCO), or none."""
    paths = value if isinstance(value, list | tuple) else [value]
    return [str(path) for path in paths if isinstance(path, str | Path) and str(path) and Path(path).exists()]


def mask_tensor(path: str) -> Tensor:
    """The mask (H, W) in a file, 1 where it marks a defect."""
    return torch.as_tensor(read_mask(path, as_tensor=True))


def read_masks(value: Any, read: Callable[[str], Tensor] = mask_tensor) -> Tensor:
    """The mask (H, W), 1 where one of the files of an image's mask marks a defect."""
    return torch.stack([read(path) for path in mask_files(value)]).amax(dim=0)


def check_datamodule(datamodule: Any) -> None:
    """Leave hidden files out of a data module that is set up, and check what it validates and tests on.

    Raises:
        ValueError: As ``check_test_files``.
    """
    leave_hidden_out_of(datamodule)
    check_test_files([getattr(datamodule, f"{name}_data", None) for name in ("val", "test")])


def check_test_files(datasets: Sequence[Any]) -> None:
    """Check the images to validate and test on, and the masks of those that have one.

    Raises:
        ValueError: If a file can't be read or would be misread, or a mask has other sides than its image.
    """
    tables = [getattr(dataset, "samples", None) for dataset in datasets]
    tables = [table for table in tables if isinstance(table, pd.DataFrame) and "label_index" in table]
    if tables:
        samples = pd.concat(tables).drop_duplicates("image_path")
        masked = (samples.label_index == LabelName.ABNORMAL) & mask_column(samples).map(mask_files).astype(bool)
        check_files(samples[masked], "test")
        check_files(samples[~masked], "test", _header_problem)


def mask_column(samples: pd.DataFrame) -> pd.Series:
    """The masks of a table of samples; empty if it has none."""
    return samples.mask_path if "mask_path" in samples else pd.Series("", index=samples.index)


def check_files(samples: pd.DataFrame, use: str, problem: Callable[[Any], str | None] | None = None) -> None:
    """Decode all images and masks, and warn of masks that lost information.

    Args:
        samples: anomalib's table of samples, in which every abnormal image has a mask.
        use: What the images are for, in a word.
        problem: What is wrong with the files of a sample; None: nothing. Default: decodes them.

    Raises:
        ValueError: If some can't be read, or a mask has other sides than its image.
    """
    with ThreadPoolExecutor() as pool:
        problems = [each for each in pool.map(problem or problem_of, samples.itertuples()) if each is not None]
    if problems:
        more = f" And {len(problems) - NAMED_FILES} more." if len(problems) > NAMED_FILES else ""
        msg = (
            f"{len(problems)} of {len(samples)} {use} images can't be used; repair or remove them. "
            + " ".join(problems[:NAMED_FILES])
            + more
        )
        raise ValueError(msg)
    masks = mask_column(samples)[samples.label_index == LabelName.ABNORMAL]
    lossy = [path for value in masks for path in mask_files(value) if is_lossy(path)]
    if lossy:
        logger.warning(
            "%d masks are in files that change levels, such as JPEG: %s. The bright half of the levels counts as "
            "defect, the rest as noise. Save masks as PNG.",
            len(lossy),
            lossy[0],
        )


def _header_problem(row: Any) -> str | None:
    """What is wrong with an image, as far as it can be told without decoding it."""
    try:
        check_header(row.image_path)
    except ValueError as error:
        return str(error)
    return None


def problem_of(row: Any, size_of: Callable[[str], tuple[int, int]] = check_image) -> str | None:
    """What is wrong with the files of a sample, in words, or None.

    Args:
        row: With image, label and masks.
        size_of: Width and height of the image in a file; raises ValueError if it can't be read.
    """
    try:
        width, height = size_of(row.image_path)
        masks = (
            {}
            if row.label_index == LabelName.NORMAL
            else {path: check_mask(path) for path in mask_files(row.mask_path)}
        )
    except ValueError as error:
        return str(error)
    for path, (mask_width, mask_height) in masks.items():
        if abs(width * mask_height - height * mask_width) > max(width, height):  # more than rounding to whole pixels
            sides = f"{mask_width} x {mask_height} pixels, the image {width} x {height}"
            return f"The mask {path} is not of the shape of {row.image_path}: it has {sides}."
    return None
