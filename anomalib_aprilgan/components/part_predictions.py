# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Predictions for images of several parts: each image by its own part of a checkpoint, in one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from anomalib.engine import Engine
from anomalib.utils.path import create_versioned_dir

from anomalib_aprilgan.components.parts import part_names, which_there_are
from anomalib_aprilgan.components.reference_changes import existing, read_checkpoint
from anomalib_aprilgan.components.run_folder import TABLE
from anomalib_aprilgan.data.listing import image_files, is_hidden, named
from anomalib_aprilgan.data.predict import ImagesToPredict

COLUMNS = ["image_path", "part"]


def predict_parts(model_class: Any, path: str | Path, data: Path, output: Path) -> Path:
    """The table of predictions for all images. CLIP is loaded once; each part's pictures are in a folder of its own.

    Args:
        model_class: AprilGan.
        path: Of the checkpoint.
        data: A folder with a folder of images for each part, or a CSV file with the columns image_path and part; its
            paths start at its own folder.
        output: Folder in which the run gets one of its own.

    Raises:
        FileNotFoundError: If the checkpoint, the data or a file is not there.
        ValueError: If there are no images, or one is of a part that the checkpoint does not have.
    """
    path = existing(path)
    names = part_names(read_checkpoint(model_class, path))
    images = images_by_part(data, names)
    module = model_class.load_from_checkpoint(path, part=next(iter(images)))
    run = create_versioned_dir(output)
    tables = []
    for part, files in images.items():
        module.part = part
        dataset = ImagesToPredict(files[0])
        dataset.image_filenames = [*files]
        engine = Engine(default_root_dir=run / part)
        engine.predict(module, dataset=dataset, ckpt_path=path, return_predictions=False)
        table = pd.read_csv(Path(engine.trainer.default_root_dir) / TABLE, dtype=str, keep_default_na=False)
        table.insert(1, "part", part)
        tables.append(table)
    pd.concat(tables).to_csv(run / TABLE, index=False)
    return run / TABLE


def images_by_part(data: Path, names: Sequence[str]) -> dict[str, list[Path]]:
    """The images of each part that there are some of.

    Raises:
        FileNotFoundError: If the data or a file is not there.
        ValueError: If there are no images, or one is of no part.
    """
    if not data.exists():
        msg = f"{str(data)!r} does not exist: expected a folder with a folder for each part, or a table (.csv)."
        raise FileNotFoundError(msg)
    found = _in_table(data) if data.is_file() else _in_folders(data)
    unknown = sorted(set(found) - set(names))
    if unknown:
        asked = f"{named(map(repr, unknown))}, as {str(data)!r} names it"
        msg = f"The checkpoint has no part {asked}; {which_there_are(names)}."
        raise ValueError(msg)
    return found


def _in_folders(data: Path) -> dict[str, list[Path]]:
    visible = [each for each in sorted(data.iterdir()) if not is_hidden(each, data)]
    folders = [each for each in visible if each.is_dir()]
    loose = [each.name for each in visible if not each.is_dir()]
    if loose or not folders:
        fault = f"these files are of no part: {named(loose)}" if loose else "there is none"
        msg = f"{str(data)!r} must hold a folder for each part and no other files, but {fault}."
        raise ValueError(msg)
    return {folder.name: image_files(folder) for folder in folders}


def _in_table(data: Path) -> dict[str, list[Path]]:
    try:
        table = pd.read_csv(data, dtype=str, keep_default_na=False)
    except (ValueError, UnicodeDecodeError) as error:
        msg = f"{str(data)!r} can't be read as a table: {error}"
        raise ValueError(msg) from error
    if not {*COLUMNS} <= {*table.columns} or not len(table):
        expected = f"the columns {', '.join(COLUMNS)} and a row for each image"
        msg = f"{str(data)!r} must have {expected}; got {len(table)} rows of {[*table.columns]}."
        raise ValueError(msg)
    files = [data.parent / name for name in table.image_path]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        msg = f"{len(missing)} images that {str(data)!r} names are not there: {named(missing)}."
        raise FileNotFoundError(msg)
    return {part: [files[index] for index in rows] for part, rows in table.groupby("part").indices.items()}
