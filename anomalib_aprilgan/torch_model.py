# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The APRIL-GAN model (arXiv:2305.17382, figure 1) as a plain torch module."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn

from anomalib_aprilgan import maps
from anomalib_aprilgan.adapters import StageAdapters, dice_loss, focal_loss
from anomalib_aprilgan.clip.cost import warn_of_slow_search
from anomalib_aprilgan.clip.encoder import ClipEncoder, Encoded
from anomalib_aprilgan.clip.memory_encoder import MemoryEncoder, beside
from anomalib_aprilgan.clip.text import class_text_features
from anomalib_aprilgan.clip.tiling import Tiling
from anomalib_aprilgan.memory import BankOptions, MemoryBank, make_banks, turned
from anomalib_aprilgan.prompts import PromptEnsemble
from anomalib_aprilgan.target import HAND, RUN, References, Target


class AprilGanModel(nn.Module):
    """A frozen CLIP with an adapter per stage, that scores images for a target: a class name and reference images.

    Args:
        encoder: The frozen CLIP.
        prompts: The prompts about normal and abnormal objects.
        image_size: Height and width in pixels of images and anomaly maps, or of the tiles into which they are cut.
        banks: How memory banks are filled and searched.
        memory_encoder: Whose patch tokens fill memory banks and pools; None: CLIP's.

    Example:
        >>> model = AprilGan("demo", "demo", 224, adapters=None).model
        >>> encoded = model.encode(torch.zeros(2, 3, 224, 224))  # once, for as many targets as wanted
        >>> scores, anomaly_maps = model.score(encoded, model.make_target("coin"))
        >>> scores.shape, anomaly_maps.shape
        (torch.Size([2]), torch.Size([2, 224, 224]))
    """

    text_features: Tensor
    score_bounds: Tensor

    def __init__(
        self,
        encoder: ClipEncoder,
        prompts: PromptEnsemble,
        image_size: int,
        banks: BankOptions | None = None,
        memory_encoder: MemoryEncoder | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.memory_encoder = memory_encoder
        self.prompts = prompts
        self.image_size = image_size
        self.adapters = StageAdapters(encoder.widths, encoder.embed_dim)
        self.banks = banks or BankOptions()
        widths = self.banks.widths((memory_encoder or encoder).widths, encoder.embed_dim)
        self.memory = MemoryBank(widths, torch.bfloat16 if self.banks.half_precision else torch.float32)
        # The model's own target: its tensors are buffers, so that they follow the model to devices and exports.
        self.class_name: str | None = None
        self.references = References()
        self.target_origin = RUN
        self.tiling = Tiling(image_size)  # a tile; AprilGan sets others
        self.score_fraction = 0.0  # of the map's values whose mean is its peak; 0: the maximum
        self.pool_share = 0  # 1: a pool's maps, which add up to 1 per stage, are added to this model's
        self.register_buffer("text_features", torch.zeros(2, encoder.embed_dim))
        self.register_buffer("score_bounds", torch.full((2,), torch.nan))

    def setup(self, class_name: str, reference_images: Tensor | None = None) -> None:
        """Set the model's own target; may be called again, which replaces it.

        Args:
            class_name: Word for the inspected object in the prompts.
            reference_images: K preprocessed normal images (K, 3, H, W); None: zero-shot.
        """
        self.target = self.make_target(class_name, reference_images)

    def make_target(
        self, class_name: str, reference_images: Tensor | None = None, references: References | None = None
    ) -> Target:
        """The target that images can be scored for. The model's own target does not change.

        Args:
            class_name: Word for the inspected object in the prompts.
            reference_images: K preprocessed normal images (K, 3, H, W); None: zero-shot.
            references: What is known of the images' files. None: they are told apart by their pixels.

        Raises:
            ValueError: If a prompt is too long or the patch tokens of an image are not finite.
        """
        with torch.inference_mode(mode=False), torch.no_grad():  # a checkpoint can't be loaded into inference tensors
            features = self.encode_class_name(class_name)
            banks = () if reference_images is None else self.encode_references(reference_images)
            bounds = torch.full_like(self.score_bounds, torch.nan)
        ratio, changed = self.banks.coreset_sampling_ratio, self.banks.changed
        known = references or References.of_pixels(reference_images, ratio, changed)
        return Target(class_name, known, features, banks, bounds, HAND if references is None else RUN)

    def encode_references(self, images: Tensor) -> tuple[Tensor, ...]:
        """Each memory bank, with the same number of rows per image; encoded one by one: K may exceed the memory."""
        parts = images.to(self.text_features.device).split(1)
        encoded = [self.banks.rows(*self.encode(turned(part, self.banks.rotations))) for part in parts]
        stages = [torch.cat(tokens) for tokens in zip(*encoded, strict=True)]
        # One row that is not a number would make every distance not a number.
        sums = torch.stack([tokens.float().flatten(1).sum(dim=1) for tokens in stages])
        maps.check_finite(sums.sum(dim=0), "patch tokens of reference images")
        copies = self.banks.rotations * self.banks.positions  # each token meets one position of each reference
        ratio = self.banks.coreset_sampling_ratio
        warn_of_slow_search(self.encoder, stages, ratio, copies, self.tiling.passes, self.memory_encoder)
        return make_banks(stages, self.memory.dtype)

    @property
    def target(self) -> Target:
        """The model's own target.

        Raises:
            RuntimeError: If none was set.
        """
        if self.class_name is None:
            msg = "The model has no class name yet: call setup(class_name) first."
            raise RuntimeError(msg)
        banks = () if self.memory.is_empty else tuple(self.memory.banks)
        return Target(
            self.class_name, self.references, self.text_features, banks, self.score_bounds, self.target_origin
        )

    @target.setter
    def target(self, target: Target) -> None:
        # Nothing here can fail half-way: the target was made before.
        self.text_features, self.score_bounds = target.text_features, target.score_bounds
        self.memory.replace(target.banks)
        self.class_name, self.references, self.target_origin = target.class_name, target.references, target.origin

    def encode_class_name(self, class_name: str) -> Tensor:
        """Text features (2, E) of the prompt ensemble about ``class_name``.

        Raises:
            ValueError: If a prompt is too long, naming the entries it is made of.
        """
        return class_text_features(self.encoder, self.prompts, class_name)

    # --- images ---

    def forward(self, images: Tensor) -> InferenceBatch:
        """Image scores (B,) and anomaly maps (B, H, W) of preprocessed images (B, 3, H, W), in float32."""
        scores, anomaly_maps = self.score(self.encode(images))
        return InferenceBatch(pred_score=scores, anomaly_map=anomaly_maps)

    def encode(self, images: Tensor) -> Encoded:
        """What the frozen encoders say of preprocessed images (B, 3, H, W)."""
        embedding, stages = self.tiling.encode(beside(self.encoder, self.memory_encoder), images)
        own = len(self.adapters.fc)  # CLIP's stages
        return Encoded(embedding, stages[:own], stages[own:])

    def score(self, encoded: Encoded, target: Target | None = None) -> tuple[Tensor, Tensor]:
        """Image scores (B,) and anomaly maps (B, H, W), in float32.

        Zero-shot: score in [0, 1], map in [0, S]. Few-shot: map in [0, 3 S], and the score mixes in the map's
        peak, scaled by the target's ``score_bounds``, so that it may leave [0, 1].

        Args:
            encoded: Of the images; may be scored for as many targets as wanted.
            target: What to look for; None: the model's own target.

        Raises:
            RuntimeError: If ``target`` is None and the model has none.
        """
        target = self.target if target is None else target
        text, anomaly_maps = self.score_parts(encoded, target)
        return self.image_score(text, self.map_peaks(anomaly_maps), target), anomaly_maps

    def score_parts(self, encoded: Encoded, target: Target, zero_shot: tuple | None = None) -> tuple[Tensor, Tensor]:
        """Text scores (B,), into which no map is mixed, and anomaly maps (B, H, W).

        Args:
            encoded: Of the images.
            target: What to look for.
            zero_shot: What this returns for the same class name without references, if it is known.
        """
        text, anomaly_maps = zero_shot or self._zero_shot_parts(encoded, target.text_features)
        if target.is_few_shot:
            text, few_shot_map = self.compare_with_references(encoded, target, text)
            anomaly_maps = anomaly_maps + few_shot_map
        return text, anomaly_maps

    def compare_with_references(self, encoded: Encoded, target: Target, text: Tensor) -> tuple[Tensor, Tensor]:
        """Text scores (B,), into which the embeddings' distances are mixed if banks have them; few-shot map."""
        found = self.banks.distances(self.banks.compared(*encoded), target.banks)
        with _full_precision(encoded.embedding):
            if self.banks.embeddings:
                text = (text + maps.embedding_score(found.pop()[:, 0])) / 2
            few_shot_map = maps.few_shot_map(found, self.image_size) / len(self.banks.neighbourhoods)
            return text, self.tiling.blend(few_shot_map)

    def _zero_shot_parts(self, encoded: Encoded, features: Tensor) -> tuple[Tensor, Tensor]:
        projected = (tokens.detach().float() for tokens in self.adapters(encoded.stages))  # one at a time
        with _full_precision(encoded.embedding):
            text = maps.text_score(encoded.embedding.float(), features)
            return text, self.tiling.blend(maps.zero_shot_map(projected, features, self.image_size))

    def map_peaks(self, anomaly_maps: Tensor) -> Tensor:
        """What image scores take of anomaly maps (B, H, W): the mean (B,) of their highest values, or the maximum."""
        return maps.map_peaks(anomaly_maps, self.score_fraction)

    def image_score(self, text: Tensor, peaks: Tensor, target: Target | None = None) -> Tensor:
        """Image scores (B,) from text scores (B,) and the peaks (B,) of anomaly maps.

        Args:
            text: Text scores.
            peaks: Of the anomaly maps.
            target: Its bounds scale the peaks; if they are NaN, the theoretical range does. None: the model's own.
        """
        target = self.target if target is None else target
        if not target.is_few_shot:
            return text
        theoretical = torch.tensor([0.0, self.map_upper_bound(target)], device=peaks.device)
        bounds = target.score_bounds
        return maps.few_shot_score(text, peaks, bounds.where(~bounds.isnan(), theoretical))

    def set_score_bounds(self, peaks: Tensor | None) -> None:
        """Scale few-shot scores by the range of map peaks (M,) of normal and abnormal validation images.

        None, or a range so narrow that it would magnify rounding errors: by the theoretical range.
        """
        self.score_bounds.fill_(torch.nan)
        if peaks is not None and self.target.is_few_shot:
            self.score_bounds.copy_(maps.score_bounds(peaks, self.map_upper_bound()))

    def map_upper_bound(self, target: Target | None = None) -> float:
        """Upper bound of anomaly maps: 1 per stage, 1 more with a pool; 2 per stage of banks (cosine distance)."""
        target = self.target if target is None else target
        banked = len((self.memory_encoder or self.encoder).layers) if target.is_few_shot else 0
        return float(len(self.adapters.fc) * (1 + self.pool_share) + 2 * banked)

    def stage_losses(self, images: Tensor, masks: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Focal and dice loss (S,) of each stage; only the adapters receive gradients.

        Args:
            images: Preprocessed, (B, 3, H, W).
            masks: 1 where abnormal, else 0, (B, H, W).
            features: Text features of each image's category, (B, 2, E).
        """
        projected = self.adapters(self.tiling.encode(self.encoder, images)[1])
        with _full_precision(images):
            probabilities = [maps.stage_probabilities(each.float(), features, self.image_size) for each in projected]
            focal = torch.stack([focal_loss(probability, masks) for probability in probabilities])
            dice = torch.stack([dice_loss(probability[:, 1], masks) for probability in probabilities])
        return focal, dice


def _full_precision(like: Tensor) -> AbstractContextManager:
    """Autocast switched off: a cosine in half precision is too coarse for softmax(100 x)."""
    device = like.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
