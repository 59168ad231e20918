# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The APRIL-GAN model (arXiv:2305.17382, figure 1) as a plain torch module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn

from anomalib_aprilgan.adapters import StageAdapters
from anomalib_aprilgan.clip.encoder import ClipEncoder
from anomalib_aprilgan.clip.text import class_text_features
from anomalib_aprilgan.losses import dice_loss, focal_loss
from anomalib_aprilgan.maps import few_shot_map, few_shot_score, stage_probabilities, text_score, zero_shot_map
from anomalib_aprilgan.memory import MemoryBank, coreset
from anomalib_aprilgan.prompts import PromptEnsemble


class AprilGanModel(nn.Module):
    """A frozen CLIP with text features of a class name, an adapter per stage and memory banks of reference images.

    Args:
        encoder: The frozen CLIP.
        prompts: The prompt ensemble about normal and abnormal objects.
        image_size: Height and width of images and anomaly maps in pixels.
        coreset_sampling_ratio: Share of each reference image's patch tokens that memory banks keep, in (0, 1].
        half_precision_memory: Keep memory banks in bfloat16.

    Raises:
        ValueError: If the ratio is out of range.
    """

    text_features: Tensor
    score_bounds: Tensor

    def __init__(
        self,
        encoder: ClipEncoder,
        prompts: PromptEnsemble,
        image_size: int,
        coreset_sampling_ratio: float = 1.0,
        half_precision_memory: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < coreset_sampling_ratio <= 1:
            msg = (
                "`coreset_sampling_ratio` must be a share of the patch tokens, 0 < ratio <= 1; got "
                f"{coreset_sampling_ratio}."
            )
            raise ValueError(msg)
        self.encoder = encoder
        self.prompts = prompts
        self.image_size = image_size
        self.adapters = StageAdapters(encoder.widths, encoder.embed_dim)
        self.coreset_sampling_ratio = coreset_sampling_ratio
        self.memory = MemoryBank(encoder.widths, torch.bfloat16 if half_precision_memory else torch.float32)
        self.class_name: str | None = None
        self.register_buffer("text_features", torch.zeros(2, encoder.embed_dim))
        # Range of the anomaly maps' maxima over the validation images; NaN: not validated.
        self.register_buffer("score_bounds", torch.full((2,), torch.nan))

    def setup(self, class_name: str, reference_images: Tensor | None = None) -> None:
        """Set the class name and the reference images; may be called again, which replaces both.

        Args:
            class_name: Word for the inspected object in the prompts.
            reference_images: K preprocessed normal images (K, 3, H, W); None: zero-shot.
        """
        # Lightning calls this in inference mode, whose tensors could not be loaded into later.
        with torch.inference_mode(mode=False), torch.no_grad():
            self.text_features = self.encode_class_name(class_name)
            self.class_name = class_name
            self.score_bounds.fill_(torch.nan)
            self.memory.clear()
            if reference_images is not None:
                self.memory.fill(self._encode_references(reference_images))

    def encode_class_name(self, class_name: str) -> Tensor:
        """Text features (2, E) of the prompt ensemble about ``class_name``.

        Raises:
            ValueError: If a prompt is too long, naming the entries it is made of.
        """
        return class_text_features(self.encoder, self.prompts, class_name)

    def forward(self, images: Tensor) -> InferenceBatch:
        """Image scores (B,) and anomaly maps (B, H, W) of preprocessed images (B, 3, H, W), in float32.

        Zero-shot: score in [0, 1], map in [0, S]. Few-shot: map in [0, 3 S], and the score mixes in the map's
        maximum, scaled by the bounds seen in validation, so that it may leave [0, 1] a little.
        """
        text, anomaly_map = self.score_and_map(images)
        return InferenceBatch(pred_score=self.image_score(text, peak(anomaly_map)), anomaly_map=anomaly_map)

    def score_and_map(self, images: Tensor, memory: MemoryBank | None = None) -> tuple[Tensor, Tensor]:
        """Text scores (B,), without the memory bank's share, and anomaly maps (B, H, W).

        Args:
            images: Preprocessed, (B, 3, H, W).
            memory: Memory bank to compare with; None: the model's own.

        Raises:
            RuntimeError: Before ``setup``.
        """
        if self.class_name is None:
            msg = "The model has no class name yet: call setup(class_name) first."
            raise RuntimeError(msg)
        memory = self.memory if memory is None else memory
        embedding, stages = self.encoder(images)
        projected = self.adapters(stages)
        distances = [] if memory.is_empty else memory(stages)
        with _full_precision(images):
            score = text_score(embedding.float(), self.text_features)
            anomaly_map = zero_shot_map(_float(projected), self.text_features, self.image_size)
            if distances:
                anomaly_map = anomaly_map + few_shot_map(distances, self.image_size)
        return score, anomaly_map

    def image_score(self, text: Tensor, peaks: Tensor) -> Tensor:
        """Image scores (B,) from text scores (B,) and the anomaly maps' maxima (B,)."""
        if self.memory.is_empty:
            return text
        theoretical = torch.tensor([0.0, self.map_maximum], device=peaks.device)
        return few_shot_score(text, peaks, self.score_bounds.where(~self.score_bounds.isnan(), theoretical))

    def set_score_bounds(self, peaks: Tensor) -> None:
        """Scale few-shot scores by the range of the validation images' map maxima (M,) from now on."""
        self.score_bounds.copy_(torch.stack([peaks.min(), peaks.max()]))

    @property
    def map_maximum(self) -> float:
        """What no anomaly map exceeds: 1 per stage, and with references 2 more for the cosine distance."""
        return float(self.memory.n_stages * (1 if self.memory.is_empty else 3))

    def stage_losses(self, images: Tensor, masks: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Focal and dice loss (S,) of each stage; only the adapters receive gradients.

        Args:
            images: Preprocessed, (B, 3, H, W).
            masks: 1 where abnormal, else 0, (B, H, W).
            features: Text features of each image's category, (B, 2, E).
        """
        _, stages = self.encoder(images)
        projected = self.adapters(stages)
        with _full_precision(images):
            probabilities = [stage_probabilities(tokens, features, self.image_size) for tokens in _float(projected)]
            focal = torch.stack([focal_loss(probability, masks) for probability in probabilities])
            dice = torch.stack([dice_loss(probability[:, 1], masks) for probability in probabilities])
        return focal, dice

    def _encode_references(self, images: Tensor) -> list[Tensor]:
        """Patch tokens (K, N, D) per stage, encoded one image at a time: K may be more than memory has room for."""
        encoded = [self._encode_reference(image) for image in images.to(self.text_features.device).split(1)]
        stages = [torch.cat(tokens) for tokens in zip(*encoded, strict=True)]
        # One such row would make every distance to the bank another one.
        sums = torch.stack([tokens.float().flatten(1).sum(dim=1) for tokens in stages])
        check_finite(sums.sum(dim=0), "patch tokens of reference images")
        return stages

    def _encode_reference(self, image: Tensor) -> list[Tensor]:
        return [coreset(tokens, self.coreset_sampling_ratio) for tokens in self.encoder(image)[1]]


def check_finite(values: Tensor, what: str, names: Sequence[str] | None = None) -> None:
    """Check that there are numbers for all images.

    Args:
        values: One for each image, (B,).
        what: Is made of the images, in words.
        names: Of the images; None: their indices.

    Raises:
        ValueError: If there are not, naming the images.
    """
    finite = values.isfinite()
    if finite.all():
        return
    bad = [str(index if names is None else names[index]) for index in (~finite).nonzero().flatten().tolist()]
    msg = (
        f"The {what} are not finite numbers for {', '.join(bad)}: the weights are damaged, or half precision "
        "overflows. Use --trainer.precision 32-true or bf16-mixed, or other weights."
    )
    raise ValueError(msg)


def peak(anomaly_map: Tensor) -> Tensor:
    """Maximum (B,) of each anomaly map (B, H, W)."""
    return anomaly_map.amax(dim=(-2, -1))


def _float(tensors: Sequence[Tensor]) -> Iterator[Tensor]:
    return (tensor.float() for tensor in tensors)  # one stage at a time


def _full_precision(like: Tensor) -> AbstractContextManager:
    """Autocast switched off: a cosine in half precision is too coarse for softmax(100 x)."""
    if torch.is_autocast_enabled(like.device.type):
        return torch.autocast(like.device.type, enabled=False)
    return nullcontext()
