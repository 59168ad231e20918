# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""What an AprilGan checkpoint holds besides Lightning's content, and what it must agree with when it is loaded."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from anomalib.engine.plugins import AnomalibCheckpointIO
from anomalib.utils.serialization import anomalib_safe_globals
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import Strategy
from torch import Tensor

from anomalib_aprilgan.clip.fingerprint import SAMPLED_LENGTH, sampled_hash
from anomalib_aprilgan.components.overruled import RATE, warn_of_overruled
from anomalib_aprilgan.components.parts import KEY, part_names, part_of
from anomalib_aprilgan.data.released_adapters import from_checkpoint
from anomalib_aprilgan.safe_io import read_torch, write_whole
from anomalib_aprilgan.target import References, TargetRequest, read_record, read_version_1
from anomalib_aprilgan.torch_model import AprilGanModel

logger = logging.getLogger(__name__)
VERSION = 2
FROZEN = ("model.encoder.", "model.memory_encoder.")
MEMORY = "model.memory.stage"


class WholeCheckpointIO(AnomalibCheckpointIO):
    """anomalib's reading and writing of checkpoints, with local files that are whole.

    Differs: Lightning writes to the system's folder for temporary files and moves the result, which on another file
    system is a copy that may end in the middle; and nothing there notices a damaged byte.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write the file wholly or not at all."""
        if is_remote(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            write_whole(path, partial(torch.save, checkpoint))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        """The content of the file, without running its code, whatever ``weights_only`` is.

        Raises:
            ValueError: If it is damaged or would run code.
        """
        del weights_only
        if is_remote(path):
            return super().load_checkpoint(path, map_location, weights_only=True)
        with anomalib_safe_globals(self.extra_safe_globals):
            content = read_torch(path, map_location or "cpu")
        if not (isinstance(content, dict) and "state_dict" in content):
            msg = f"{path} can't be read: it is no checkpoint of Lightning."
            raise ValueError(msg)
        return content


def use_whole_files(strategy: Strategy) -> None:
    """Have the trainer read and write checkpoints by WholeCheckpointIO, unless the user has chosen another way."""
    if type(strategy.checkpoint_io) is AnomalibCheckpointIO:
        strategy.checkpoint_io = WholeCheckpointIO(strategy.checkpoint_io.extra_safe_globals)


def is_remote(path: Any) -> bool:
    """Whether this is an address and not the path of a local file."""
    return "://" in str(path)


@contextmanager
def naming(path: str | Path | None) -> Iterator[None]:
    """Adds the checkpoint's name to what is said against it."""
    try:
        yield
    except ValueError as error:
        if path is None or str(path) in str(error):
            raise
        msg = f"The checkpoint {path} can't be loaded. {error}"
        raise ValueError(msg) from error


def describe(model: AprilGanModel) -> dict[str, Any]:
    """The facts about a model that its adapters, text features and memory banks depend on, as plain values."""
    encoder = model.encoder
    return {
        "image_size": model.image_size,
        "tiles": list(model.tiling.tiles),
        "layers": list(encoder.layers),
        "stage_widths": list(encoder.widths),
        "embed_dim": encoder.embed_dim,
        "quick_gelu": encoder.quick_gelu,
        "clip_weights": encoder.fingerprint(),
        "prompts": model.prompts.digest(),
        "banks": model.banks.changed,
        "memory_encoder": model.memory_encoder.fingerprint() if model.memory_encoder else "",
    }


def own_part(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Our part of the checkpoint.

    Raises:
        ValueError: If it is not a checkpoint of AprilGan, or newer than this package.
    """
    ours = checkpoint.get(KEY)
    if not isinstance(ours, dict) or not isinstance(ours.get("version"), int):
        msg = "This is not a checkpoint of AprilGan. To load adapters out of another file, give its path as `adapters`."
        raise ValueError(msg)
    if ours["version"] > VERSION:
        msg = f"The checkpoint has version {ours['version']}, this anomalib-aprilgan reads up to {VERSION}: upgrade it."
        raise ValueError(msg)
    return ours


def check(checkpoint: dict[str, Any], model: AprilGanModel) -> dict[str, Any]:
    """Our part of the checkpoint, after a check that it was made with a model like this one.

    What an older version of this package did not write down is not compared.

    Raises:
        ValueError: If it is not a checkpoint of AprilGan, is newer than this package, or was made with another
            backbone, image size, layers or prompts.
    """
    ours = own_part(checkpoint)
    there, here = {"banks": "", "tiles": [1, 1], "memory_encoder": "", **ours["model"]}, describe(model)
    if len(there.get("clip_weights", "")) == SAMPLED_LENGTH:  # made before all values were hashed
        here["clip_weights"] = sampled_hash(model.encoder.clip.state_dict())
    differing = [name for name in here if name in there and there[name] != here[name]]
    if differing:
        msg = (
            "The checkpoint was made with another model than the one that loads it: "
            + "; ".join(f"{name}: {there[name]} there, {here[name]} here" for name in differing)
            + ". Give the model the same arguments (backbone, pretrained, image_size, tiles, layers, quick_gelu, "
            "prompts; for banks: reference_rotations, neighbourhoods, reference_embeddings, aligned, memory_backbone, "
            "memory_pretrained, memory_layers)."
        )
        raise ValueError(msg)
    return ours


def without_encoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict less the frozen CLIP, which would make gigabytes of megabytes."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(FROZEN)}


def with_encoder(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict completed by the frozen CLIP of the loading model."""
    return {**{name: tensor for name, tensor in own.items() if name.startswith(FROZEN)}, **state}


def memory_rows(state: dict[str, Tensor]) -> list[int]:
    """Rows of each stage's memory bank in a state dict."""
    names = sorted((name for name in state if name.startswith(MEMORY)), key=lambda name: int(name.removeprefix(MEMORY)))
    return [len(state[name]) for name in names]


class AprilGanCheckpoint(LightningModule):
    """anomalib's checkpoints without the frozen CLIP: adapters, target, bounds and thresholds."""

    model: AprilGanModel
    adapters: str | None
    loaded_adapters: str | None
    part: str | None
    request: TargetRequest
    post_processor: Any
    checkpoint_safe_globals: Any

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """The model that was saved, with the arguments that it was made with or those given by name.

        Args:
            checkpoint_path: Of the file.
            *args: Lightning's.
            **kwargs: Lightning's, and arguments of the model.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged, would run code, is newer than this package, or was made with another
                model than the arguments make.
        """
        with naming(checkpoint_path):
            if not is_remote(checkpoint_path):
                own_part(WholeCheckpointIO(cls.checkpoint_safe_globals()).load_checkpoint(checkpoint_path))
            token = from_checkpoint.set(True)
            try:
                return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)
            finally:
                from_checkpoint.reset(token)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out the frozen CLIP; make the hyper-parameters independent of other files than CLIP's."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["state_dict"] = without_encoder(checkpoint["state_dict"])
        hyper_parameters = checkpoint["hyper_parameters"]
        if self.adapters is not None:
            hyper_parameters["adapters"] = "auto"  # fetched only if the checkpoint did not bring them, which it does
        if self.part:  # it is a checkpoint of this part alone
            request = self.request
            hyper_parameters.update(
                part=None, class_name=request.class_name, k_shot=request.k_shot, few_shot_source=None
            )
        if hyper_parameters.get("prompts") is not None:
            hyper_parameters["prompts"] = asdict(self.model.prompts)
        checkpoint[KEY] = {
            "version": VERSION,
            "model": describe(self.model),
            "target": None if self.model.class_name is None else self.model.target.record(),
            "adapters": self.adapters,
            "loaded_adapters": self.loaded_adapters,
        }

    def _choose_part(self, checkpoint: dict[str, Any]) -> None:
        """Make it the checkpoint of the part that is asked for alone."""
        names = part_names(checkpoint)
        if self.part:
            checkpoint.update(part_of(checkpoint, self.part))
            class_name, references, _ = read_record(checkpoint[KEY]["target"])
            self.request = replace(self.request, class_name=class_name, k_shot=len(references.paths), source=None)
        elif names and self.part is None:
            logger.warning(
                "The checkpoint holds the parts %s. Its own target is used: give `part` for another.", ", ".join(names)
            )
        self.loaded_part = self.part

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint fits, and complete it with this model's CLIP."""
        with naming(None if self._trainer is None else self._trainer.ckpt_path):
            check(checkpoint, self.model)
            self._choose_part(checkpoint)
        ours = checkpoint[KEY]
        first = ours["version"] == 1
        adapters = adapters_of_version_1(ours) if first else ours["loaded_adapters"]
        target = read_version_1(ours) if first else ours["target"] and read_record(ours["target"])
        warn_of_overruled(self, checkpoint, adapters, target[1] if target else References())
        rate = getattr(self.post_processor, RATE, None)
        super().on_load_checkpoint(checkpoint)
        if first and self.post_processor is not None:
            self.post_processor.is_calibrated = ours["calibrated"]
        if rate is not None and not getattr(self.post_processor, "is_calibrated", True):
            self.post_processor.false_positive_rate = rate  # of thresholds that are still to be found
        self.model.memory.resize(memory_rows(checkpoint["state_dict"]))
        checkpoint["state_dict"] = with_encoder(checkpoint["state_dict"], self.state_dict())
        self.loaded_adapters = adapters
        if target:
            self.model.class_name, self.model.references, self.model.target_origin = target


def adapters_of_version_1(ours: dict[str, Any]) -> str | None:
    """Whose adapters a checkpoint of version 1 holds. It did not say whether they were trained here or elsewhere."""
    return (ours["adapters"] or "trained before") if ours["adapters_ready"] else None
