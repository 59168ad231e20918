# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""References of a checkpoint that are added, dropped or replaced, with the thresholds that they give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock

from anomalib_aprilgan.components.checkpoint import WholeCheckpointIO, naming, own_part
from anomalib_aprilgan.components.parts import KEY, OWN, PARTS, part_of, with_part, with_parts
from anomalib_aprilgan.components.post_processor import AprilGanPostProcessor
from anomalib_aprilgan.components.reference_plans import NO_TIME, Change, Plan, digest_of, is_unchanged
from anomalib_aprilgan.data.listing import named
from anomalib_aprilgan.data.references import read_references, resolve_class_name
from anomalib_aprilgan.memory import select_references
from anomalib_aprilgan.target import CHANGED, CHECKPOINT, References, read_record, read_version_1

VALIDATED = (
    "The checkpoint's thresholds and score bounds came from a validation with the other references and do not hold any "
    "more. The references set new ones; to have a validation set them, run it anew with this checkpoint as --ckpt_path."
)


def change_references(model_class: Any, path: str | Path, plan: Plan, part: str | None = None) -> list[str]:
    """Change the references in a checkpoint, and its thresholds, as a new set-up would find them; or nothing.

    New images are encoded, and views of all references, which give the thresholds. All else in the file stays.

    Args:
        model_class: AprilGan.
        path: Of the checkpoint.
        plan: Makes the change from the references that are there.
        part: Name of the part whose references are meant. None: the checkpoint's own.

    Returns:
        What was done, in lines.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it can't be read, or the change can't be made.
    """
    path = existing(path)
    with FileLock(lock_of(path)):
        content = read_checkpoint(model_class, path)
        single = part_of(content, part) if part else content
        change = plan(known_references(single))
        check_reference_files(change.references)
        module = model_class.load_from_checkpoint(path, part=part or OWN).eval()
        before = describe_thresholds(module)
        validated = getattr(module.post_processor, "has_tails", False) or not module.model.score_bounds.isnan().all()
        apply_change(module, change)
        changed = changed_content(module, single)
        parts = content[KEY].get(PARTS, {})
        write(module, with_part(content, part, changed) if part else with_parts(changed, parts), path)
    return [
        *change.notes,
        *([VALIDATED] * validated),
        f"{len(change.references.paths)} references: {change.references}",
        f"Thresholds before: {before}",
        f"Thresholds now: {describe_thresholds(module)}",
    ]


def lock_of(path: Path) -> Path:
    """The file by which a change of a checkpoint keeps others waiting, which would be lost."""
    return path.with_name(f".{path.name}.lock")


def existing(path: str | Path) -> Path:
    """The file itself, where a link leads to it: a link would be replaced.

    Raises:
        FileNotFoundError: If there is none.
    """
    if not Path(path).is_file():
        msg = f"There is no checkpoint {str(path)!r}. Expected a file such as weights/lightning/model.ckpt."
        raise FileNotFoundError(msg)
    return Path(path).resolve()


def read_checkpoint(model_class: Any, path: Path) -> dict[str, Any]:
    """The content of a checkpoint of AprilGan.

    Raises:
        ValueError: If it is none, or damaged.
    """
    with naming(path):
        content = WholeCheckpointIO(model_class.checkpoint_safe_globals()).load_checkpoint(path)
        own_part(content)
    return content


def known_references(content: dict[str, Any]) -> References:
    """The references that a checkpoint was made with, with a hash of each file.

    Raises:
        ValueError: If they were given as tensors.
    """
    ours = own_part(content)
    if ours["version"] == 1:
        known = read_version_1(ours)[1]
        return replace(known, digests=tuple(map(digest_of, known.paths)))
    return read_record(ours["target"])[1] if ours["target"] else References()


def table_of(model_class: Any, path: str | Path, part: str | None = None) -> str:
    """The references of a checkpoint, in lines.

    Args:
        model_class: AprilGan.
        path: Of the checkpoint.
        part: Name of the part whose references are meant. None: the checkpoint's own.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it can't be read.
    """
    content = read_checkpoint(model_class, existing(path))
    content = part_of(content, part) if part else content
    known = known_references(content)
    if not known.paths:
        return "no references" if not known.digests else f"{len(known.digests)} references, given without files"
    columns = ["name", "folder", "added", "in the threshold", "file"]
    frame = pd.DataFrame(_rows(known, _gave_thresholds(content, known)), columns=columns)
    frame.index += 1
    return frame.to_string()


def _rows(known: References, in_threshold: str) -> Iterator[tuple[str, ...]]:
    for index, path in enumerate(known.paths):
        time = known.added[index] if known.added else NO_TIME
        state = "missing" if not Path(path).is_file() else "ok" if is_unchanged(known, index) else "has changed"
        yield Path(path).name, str(Path(path).parent), time, in_threshold, state


def _gave_thresholds(content: dict[str, Any], known: References) -> str:
    """Whether the thresholds come from the references."""
    config = content.get("anomalib_post_processor_config") or {}
    if not config.get("is_calibrated") or config.get("has_tails"):
        return "no"
    origin = config.get("calibrated_on") or ("reference" if known.source == CHANGED else "")
    return ("yes" if "reference" in origin else "no") if origin else "not recorded"  # in an older checkpoint


def check_reference_files(references: References) -> None:
    """Check that views of the references can be made, by which thresholds are set.

    Raises:
        ValueError: If files are missing or have changed.
    """
    lost = [path for index, path in enumerate(references.paths) if not is_unchanged(references, index)]
    if lost:
        msg = (
            f"Nothing was changed. Thresholds are set by the files of all references, but these are missing or have "
            f"other content now: {named(lost)}. Put them back (`add` knows files that were moved by their content), "
            "drop these references, or replace all."
        )
        raise ValueError(msg)


def apply_change(module: Any, change: Change) -> None:
    """Set target and thresholds of an AprilGan as a set-up would; it is on the CPU then."""
    module.to("cuda" if torch.cuda.is_available() else "cpu")
    model, references, n_kept = module.model, change.references, len(change.kept)
    known = model.target.banks if n_kept else ()
    ratio = references.coreset_sampling_ratio if n_kept else model.banks.coreset_sampling_ratio
    model.banks = replace(model.banks, coreset_sampling_ratio=ratio)
    references = replace(references, coreset_sampling_ratio=ratio, banks=model.banks.changed)
    name = resolve_class_name(module.request, None, model.class_name, model.target_origin)
    new = references.paths[n_kept:]
    target = model.make_target(name, read_references(new, module.reference_transform) if new else None, references)
    parts = [part for part in (select_references(known, change.kept, model_shots(model)), target.banks) if part]
    banks = tuple(torch.cat(rows) for rows in zip(*parts, strict=True))
    model.target = replace(target, banks=banks, origin=CHECKPOINT)
    module._forget_calibration()  # noqa: SLF001  # as `set_target` does for another target
    module.prepare()
    module.cpu()


def model_shots(model: Any) -> int:
    """Number of reference images in the banks of a model."""
    return len(model.references.digests or model.references.paths)


def changed_content(module: Any, content: dict[str, Any]) -> dict[str, Any]:
    """The content of a checkpoint with what has changed, and all else as it was, but for its parts."""
    references = module.model.references
    arguments = {
        "k_shot": len(references.paths),
        "few_shot_source": None,  # a checkpoint's own are used where none is named
        "coreset_sampling_ratio": references.coreset_sampling_ratio,
    }
    content = {
        **content,
        "state_dict": module.state_dict(),
        "callbacks": {**content.get("callbacks", {}), **_callback_state(module.post_processor, content)},
        "hyper_parameters": {**content["hyper_parameters"], **arguments},
    }
    module.on_save_checkpoint(content)
    return content


def write(module: Any, content: dict[str, Any], path: Path) -> None:
    """Write a checkpoint of an AprilGan, wholly or not at all."""
    WholeCheckpointIO(module.checkpoint_safe_globals()).save_checkpoint(content, path)


def _callback_state(post_processor: Any, content: dict[str, Any]) -> dict[str, Any]:
    """The thresholds once more: anomalib's post-processor is a callback too, whose state a trainer restores last."""
    key: Any = getattr(post_processor, "state_key", None)
    return {key: post_processor.state_dict()} if key in content.get("callbacks", {}) else {}


def describe_thresholds(module: Any) -> str:
    """The raw thresholds and where they come from."""
    own = module.post_processor
    if not isinstance(own, AprilGanPostProcessor):
        return "those of another post-processor"
    values = f"image score {float(own.image_threshold):.4f}, anomaly map {float(own.pixel_threshold):.4f}"
    return f"{values} (from {own.threshold_origin or 'no image: the middle of the theoretical range'})"
