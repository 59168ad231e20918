# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Exports of weights and configuration alone: no pickled code, so that reading one needs no trust in who made it."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn

from anomalib_aprilgan.clip.configuration import clip_config
from anomalib_aprilgan.clip.encoder import ClipEncoder
from anomalib_aprilgan.clip.memory_encoder import MemoryEncoder
from anomalib_aprilgan.clip.tiling import Tiling
from anomalib_aprilgan.compat.torch import SkipInitialisation
from anomalib_aprilgan.components.post_processor import AprilGanPostProcessor
from anomalib_aprilgan.components.pre_processor import AprilGanPreProcessor
from anomalib_aprilgan.memory import BankOptions
from anomalib_aprilgan.prompts import PromptEnsemble
from anomalib_aprilgan.safe_io import read_torch, write_whole
from anomalib_aprilgan.target import read_record
from anomalib_aprilgan.torch_model import AprilGanModel

KEY, VERSION = "april_gan_export", 1
MEMORY = "model.memory.stage"
# Stands for the text tower, which exports leave out.
NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}


class ExportedModel(nn.Module):
    """A model that is ready to look at images: pre-processor, AprilGanModel without its text tower, post-processor.

    Args:
        pre_processor: Resizes and normalises images; None: they come as the model takes them.
        model: That scores them.
        post_processor: Normalises scores and decides; None: raw scores.
    """

    def __init__(self, pre_processor: nn.Module | None, model: AprilGanModel, post_processor: nn.Module | None) -> None:
        super().__init__()
        self.pre_processor, self.model, self.post_processor = pre_processor, model, post_processor

    @torch.inference_mode()
    def forward(self, images: Tensor) -> InferenceBatch:
        """Scores, maps and decisions about RGB images (B, 3, H, W) in [0, 1] of any size."""
        raw = self.model(self.pre_processor(images) if self.pre_processor else images)
        return self.post_processor(raw) if self.post_processor else raw


def write_plain(module: Any, path: Path) -> Path:
    """The path, to which weights and configuration are written.

    Args:
        module: An AprilGan that is set up, without its text tower.
        path: Of the file.

    Raises:
        ValueError: If it has a pre- or post-processor of another class, which only code can make again.
    """
    model, encoder = module.model, module.model.encoder
    content = {
        KEY: VERSION,
        "encoder": {
            "clip": {**clip_config(module.hparams["backbone"]), "text_cfg": NO_TEXT, "custom_text": False},
            "image_size": encoder.image_size,
            "layers": list(encoder.layers),
            "quick_gelu": encoder.quick_gelu,
        },
        "banks": {**asdict(model.banks), "neighbourhoods": list(model.banks.neighbourhoods)},
        "tiles": list(model.tiling.tiles),
        "score_fraction": model.score_fraction,
        "memory_encoder": [module.hparams["memory_backbone"], list(model.memory_encoder.layers)]
        if model.memory_encoder
        else [None, None],
        "target": model.target.record(),
        "pre_processor": _configuration(module.pre_processor, AprilGanPreProcessor),
        "post_processor": _configuration(module.post_processor, AprilGanPostProcessor),
        "state_dict": ExportedModel(module.pre_processor, model, module.post_processor).state_dict(),
    }
    write_whole(path, partial(torch.save, content))
    return path


def load_export(path: str | Path, device: str | torch.device = "cpu") -> ExportedModel:
    """The model of a file that `aprilgan export` or ``to_torch(..., weights_only=True)`` wrote.

    It needs neither CLIP's weights nor a network, and runs no code of the file.

    Args:
        path: Of the file.
        device: To run on.

    Returns:
        What takes RGB images (B, 3, H, W) in [0, 1] and gives `pred_score`, `pred_label`, `anomaly_map` and
        `pred_mask`, without gradients.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, of another kind, or newer than this package.
    """
    content = read_torch(path, device)
    if not isinstance(content, dict) or content.get(KEY) != VERSION:
        msg = f"{path} is no export of weights that this version reads: make it with `aprilgan export`."
        raise ValueError(msg)
    state = content["state_dict"]
    exported = ExportedModel(
        _made(AprilGanPreProcessor((1, 1), (0.0,) * 3, (1.0,) * 3), content["pre_processor"]),
        _model(content),
        _made(AprilGanPostProcessor(), content["post_processor"]),
    )
    banks = sorted((name for name in state if name.startswith(MEMORY)), key=lambda name: int(name[len(MEMORY) :]))
    exported.model.memory.resize([len(state[name]) for name in banks])
    exported.load_state_dict(state, assign=True)
    return exported.requires_grad_(False).to(device).eval()


def holds_code(path: Path) -> bool:
    """Whether a file of torch holds more than tensors and plain values, so that reading it may run code."""
    return bool(torch.serialization.get_unsafe_globals_in_checkpoint(path))


def _configuration(component: Any, kind: Any) -> dict[str, Any] | None:
    if component is None:
        return None
    if type(component) is not kind:
        msg = (
            f"An export without code can't hold {type(component).__name__}, a component of your own: use "
            f"{kind.__name__}, or export with code (`anomalib export --export_type torch`)."
        )
        raise ValueError(msg)
    config: dict[str, Any] = component.checkpoint_config()
    return config


def _made(component: Any, config: dict[str, Any] | None) -> Any:
    if config is not None:
        component.load_checkpoint_config(config)
    return None if config is None else component


def _model(content: dict[str, Any]) -> AprilGanModel:
    """The model, with weights that are still to be loaded."""
    facts = content["encoder"]
    with SkipInitialisation():
        encoder = ClipEncoder(facts["clip"], None, facts["image_size"], facts["layers"], facts["quick_gelu"])
    backbone, layers = content["memory_encoder"]
    statistics = ((0.0,) * 3, (1.0,) * 3)  # the file's are loaded
    memory = MemoryEncoder(backbone, False, facts["image_size"], statistics, layers) if backbone else None
    encoder.clip = without_text(encoder.clip)
    banks = {**content["banks"], "neighbourhoods": tuple(content["banks"]["neighbourhoods"])}
    model = AprilGanModel(encoder, PromptEnsemble.read(None), facts["image_size"], BankOptions(**banks), memory)
    model.tiling, model.score_fraction = Tiling(facts["image_size"], content["tiles"]), content["score_fraction"]
    model.class_name, model.references, model.target_origin = read_record(content["target"])
    return model


def without_text(clip: Any) -> nn.Module:
    """A CLIP's image tower, as the part of a CLIP that has no other."""
    images_only = nn.Module()
    images_only.visual = clip.visual
    return images_only
