# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""APRIL-GAN as an anomalib model: steps, hooks and components; no tensor maths."""

import logging
from pathlib import Path
from typing import Any

import torch
from anomalib import LearningType
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import ImageVisualizer, Visualizer
from lightning.pytorch import Callback
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn

from anomalib_aprilgan.clip.configuration import IMAGE_MEAN, IMAGE_STD, image_statistics
from anomalib_aprilgan.clip.encoder import ClipEncoder
from anomalib_aprilgan.clip.memory_encoder import second_encoder
from anomalib_aprilgan.clip.tiling import Tiling
from anomalib_aprilgan.compat.anomalib import check_category, plain
from anomalib_aprilgan.compat.datasets import allow_no_validation
from anomalib_aprilgan.compat.lightning import current_datamodule, unrepeated
from anomalib_aprilgan.compat.logs import log_once
from anomalib_aprilgan.components.arguments import check_arguments, check_precision
from anomalib_aprilgan.components.calibration import ValidationScores
from anomalib_aprilgan.components.checkpoint import AprilGanCheckpoint
from anomalib_aprilgan.components.evaluator import AprilGanEvaluator
from anomalib_aprilgan.components.export import AprilGanExport
from anomalib_aprilgan.components.graceful_shutdown import GracefulShutdown
from anomalib_aprilgan.components.metrics import default_metrics
from anomalib_aprilgan.components.model_checkpoint import keep_checkpoints
from anomalib_aprilgan.components.pool_predictions import AprilGanPool
from anomalib_aprilgan.components.post_processor import AprilGanPostProcessor
from anomalib_aprilgan.components.pre_processor import AprilGanPreProcessor, statistics_of
from anomalib_aprilgan.components.predictions import PredictionsTable
from anomalib_aprilgan.components.target import AprilGanTarget
from anomalib_aprilgan.components.visualizer import AprilGanVisualizer
from anomalib_aprilgan.data.auxiliary import categories_to_train_on, check_for_evaluation
from anomalib_aprilgan.data.listing import take_over_listing
from anomalib_aprilgan.data.released_adapters import NAMED_ADAPTERS, check_backbone, shipped_adapters
from anomalib_aprilgan.maps import check_finite, map_maxima
from anomalib_aprilgan.memory import BankOptions
from anomalib_aprilgan.prompts import PromptEnsemble
from anomalib_aprilgan.target import TargetRequest
from anomalib_aprilgan.torch_model import AprilGanModel

logger = logging.getLogger(__name__)
TRAINED = "trained here"


class AprilGan(AprilGanExport, AprilGanPool, AprilGanTarget, AprilGanCheckpoint, AnomalibModule):  # type: ignore[misc]  # to_onnx differs, as in anomalib
    """APRIL-GAN: zero- and few-shot anomaly detection with a frozen CLIP (arXiv:2305.17382).

    Args:
        backbone: open_clip architecture, path of an open_clip model configuration (.json), or "demo", a small CNN.
        pretrained: open_clip tag, path of a checkpoint or folder, "demo", or None for random weights (tests).
        image_size: Height and width in pixels to which images are resized; a multiple of the patch size.
        layers: 1-based numbers of the tapped layers. None: four equal stages (ViT-L: 6, 12, 18, 24; CNN: 1 to 4).
        quick_gelu: Run CLIP with QuickGELU. OpenAI trained with it, but the released adapters were trained without.
        adapters: "mvtecad" or "visa", released and trained on that data set; "demo", the backbone "demo"'s own; "auto",
            the one of them that was not trained on the tested data; path of a file (theirs, or a checkpoint of ours);
            None: to be trained.
        class_name: Word for the object in the prompts. None: the data module's category, else "object".
        k_shot: Number of normal reference images. 0: zero-shot.
        few_shot_source: Folder to draw references from, or exactly ``k_shot`` images. None: the data module's.
        with_replacement: Draw references with replacement, as the authors do.
        coreset_sampling_ratio: Fraction of each reference's patch tokens in memory banks, in (0, 1], as PatchCore.
        half_precision_memory: Keep memory banks in bfloat16, in half the memory.
        reference_rotations: Copies of each reference in memory banks: 1, 4 (turned by quarters) or 8 (mirrored too).
        neighbourhoods: Odd numbers r: r x r patches are averaged before they are compared, and distances over all r.
        reference_embeddings: Mix the distance to the references' embeddings into image scores.
        memory_backbone: Network of timm whose patch tokens fill memory banks and pools. None: CLIP's do.
        memory_pretrained: True: timm's weights; path of a file of weights; False: random ones (tests).
        memory_layers: As ``layers``. None: the last block of a ViT; the stages of stride 8, 16 and 32 of a CNN.
        tiles: Rows and columns of overlapping tiles, each of ``image_size``, that are encoded instead. 1: whole images.
        aligned: Compare each tile with the references' at the same place alone: parts that always lie the same way.
        score_fraction: Image scores take the mean of so large a part of the map's highest values. 0: the maximum.
        part: Name of the part of the checkpoint that is loaded (`aprilgan parts`), with its class name and references.
        seed: Of the draw, and of the initial weights of adapters to be trained.
        prompts: Path of a YAML file as in docs/prompts.md, or its content. None: the paper's ensemble.
        learning_rate: Of the adapters' training with Adam.
        false_positive_rate: Fraction of normal images, in [0, 1), called abnormal where they alone set thresholds.
        pool: Score images by each other too, all those of a run (docs/beyond.md).
        pool_source: Folder of unlabelled images by which to score those of a run. None: no such pool.
        pre_processor: Instance, or True for resizing to ``image_size`` and CLIP's normalisation.
        post_processor: Instance, or True for the rank-preserving one.
        evaluator: Instance, or True for AUROC, F1Score, F1Max and AUPR of images and pixels and AUPRO.
        visualizer: Instance, or True for anomalib's with captions.

    Raises:
        ValueError: If an argument is out of range or the weights or adapters do not fit the backbone.
        FileNotFoundError: If a given file does not exist.
        ConnectionError: If CLIP's weights are neither cached nor to be downloaded.

    Example:
        >>> from anomalib.engine import Engine
        >>> model = AprilGan("demo", "demo", 224, adapters=None, class_name="coin")
        >>> (batch,) = Engine(enable_progress_bar=False).predict(model, data_path="coin.png")
        >>> batch.pred_score.shape, batch.anomaly_map.shape
        (torch.Size([1]), torch.Size([1, 224, 224]))
    """

    def __init__(
        self,
        backbone: str = "ViT-L-14-336",
        pretrained: str | None = "openai",
        image_size: int = 518,
        layers: list[int] | None = None,
        quick_gelu: bool = False,
        adapters: str | None = "auto",
        class_name: str | None = None,
        k_shot: int = 0,
        few_shot_source: str | Path | list[str] | None = None,
        with_replacement: bool = False,
        coreset_sampling_ratio: float = 1.0,
        half_precision_memory: bool = False,
        reference_rotations: int = 1,
        neighbourhoods: list[int] | tuple[int, ...] = (1,),
        reference_embeddings: bool = False,
        memory_backbone: str | None = None,
        memory_pretrained: bool | str = True,
        memory_layers: list[int] | None = None,
        tiles: int | list[int] = 1,
        aligned: bool = False,
        score_fraction: float = 0.0,
        part: str | None = None,
        seed: int = 0,
        prompts: str | dict[str, Any] | None = None,
        learning_rate: float = 1e-3,
        false_positive_rate: float = 0.01,
        pool: bool = False,
        pool_source: str | None = None,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        log_once()
        layers, few_shot_source, prompts = plain(layers), plain(few_shot_source), plain(prompts)
        neighbourhoods, tiles, memory_layers = plain(neighbourhoods), plain(tiles), plain(memory_layers)
        check_arguments(locals())
        check_backbone(shipped_adapters(adapters, backbone, pretrained, layers), backbone, layers)
        tiling = Tiling(image_size, tiles)
        if pre_processor is True:
            mean, std = image_statistics(backbone, pretrained)
            pre_processor = self.configure_pre_processor(tiling.size, mean, std)
        if post_processor is True:
            post_processor = AprilGanPostProcessor(false_positive_rate=false_positive_rate)
        super().__init__(pre_processor, post_processor, evaluator, visualizer)
        take_over_listing()
        self.part = part
        adapters = self.adapters = shipped_adapters(adapters, backbone, pretrained, layers)
        self.learning_rate = learning_rate
        kept = (coreset_sampling_ratio, half_precision_memory, reference_rotations, (*neighbourhoods,))
        banks = BankOptions(*kept, reference_embeddings, tiling.count if aligned else 1)
        draw = (with_replacement, seed, coreset_sampling_ratio, banks.changed)
        self.request = TargetRequest(class_name, k_shot, few_shot_source, *draw)
        network = (memory_backbone, memory_pretrained, memory_layers)
        memory = second_encoder(*network, image_size, statistics_of(pre_processor, tiling.size))
        encoder = ClipEncoder(backbone, pretrained, image_size, layers, quick_gelu)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.model: AprilGanModel = AprilGanModel(encoder, PromptEnsemble.read(prompts), image_size, banks, memory)
        self.model.tiling = tiling
        self.model.score_fraction = self.calibrated_fraction = score_fraction
        self.use_pool(pool, pool_source)
        self._validation_scores = ValidationScores()
        self._category_features: dict[str, Tensor] = {}
        self.loaded_adapters: str | None = None  # name or path of the weights; None: untrained
        self.model.adapters.requires_grad_(adapters is None)
        if adapters is not None and adapters not in NAMED_ADAPTERS:
            self.model.adapters.load_file(adapters)
            self.loaded_adapters = adapters

    @property
    def learning_type(self) -> LearningType:
        """ONE_CLASS while adapters are to be trained: Engine trains no zero- and few-shot models. Else by k_shot."""
        if self.adapters is None:
            return LearningType.ONE_CLASS
        return LearningType.FEW_SHOT if self.request.k_shot else LearningType.ZERO_SHOT

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """No sanity check: its few images would set thresholds and score bounds."""
        return {"num_sanity_val_steps": 0}

    @staticmethod
    def configure_pre_processor(
        image_size: tuple[int, int] | None = None,
        mean: tuple[float, ...] = IMAGE_MEAN,
        std: tuple[float, ...] = IMAGE_STD,
    ) -> PreProcessor:
        """Bicubic resizing without keeping the aspect ratio, and normalisation."""
        return AprilGanPreProcessor(image_size or (518, 518), mean, std)

    def configure_post_processor(self) -> PostProcessor:
        """The rank-preserving post-processor."""
        return AprilGanPostProcessor()

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """AUROC, F1Score, F1Max and AUPR (average precision) of images and pixels, and AUPRO."""
        return AprilGanEvaluator(test_metrics=default_metrics())

    @classmethod
    def configure_visualizer(cls) -> ImageVisualizer:
        """The visualizer with captions."""
        return AprilGanVisualizer()

    def configure_callbacks(self) -> list[Callback]:
        """Anomalib's components, what is written beside them, and a graceful shutdown; before data are prepared."""
        check_precision(str(self.trainer.precision))
        check_category(current_datamodule(self))
        return [*super().configure_callbacks(), PredictionsTable(), GracefulShutdown()]  # type: ignore[misc]

    def configure_optimizers(self) -> torch.optim.Optimizer | None:
        """Adam over the adapters, or None if they are not trained."""
        if self.adapters is not None:
            return None
        return torch.optim.Adam(self.model.adapters.parameters(), lr=self.learning_rate, betas=(0.5, 0.999))

    def val_dataloader(self) -> list:
        """No data: anomalib validates zero-shot models before predicting an image."""
        return []

    def setup(self, stage: str) -> None:
        """Check that the data fit the model; from here on checkpoints are written in one step."""
        keep_checkpoints(self.trainer)
        datamodule = current_datamodule(self)
        for each in (datamodule, getattr(datamodule, "target", None)):  # the target of an AuxiliaryDataModule
            allow_no_validation(each)
        check_for_evaluation(datamodule, self.adapters)

    def on_fit_start(self) -> None:
        """Encode the names of the auxiliary categories."""
        names = categories_to_train_on(current_datamodule(self))
        self._category_features = {name: self.model.encode_class_name(name) for name in names}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The sum of the stages' focal and dice losses of a batch with masks and categories."""
        features = torch.stack([self._category_features[category] for category in batch.category])
        focal, dice = self.model.stage_losses(batch.image, batch.gt_mask.float(), features)
        loss = (focal + dice).sum()
        # A step with such a loss would ruin the adapters.
        check_finite(loss.detach().expand(len(batch.image)), "losses", batch.image_path)
        options: dict[str, Any] = {"on_step": False, "on_epoch": True, "prog_bar": True, "sync_dist": True}
        self.log("train_loss", loss, batch_size=len(batch.image), **options)
        self.loaded_adapters = TRAINED
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> STEP_OUTPUT:
        """Predictions. Few-shot image scores are scaled by the old bounds: the new ones are known at the end."""
        text, anomaly_maps = self.score_batch(batch)
        peaks, maxima = self.model.map_peaks(anomaly_maps), map_maxima(anomaly_maps)
        check_finite(text + maxima, "scores", batch.image_path)
        own = unrepeated(batch, self.trainer, batch_idx, dataloader_idx)
        if own is not None:
            n_own = len(own)
            self._validation_scores.update(text[:n_own], peaks[:n_own], maxima[:n_own], own.gt_label)
        return batch.update(pred_score=self.model.image_score(text, peaks), anomaly_map=anomaly_maps)

    def on_validation_epoch_end(self) -> None:
        """Set score bounds and thresholds from all validation images."""
        post_processor: Any = self.post_processor
        if not self._validation_scores.update_called or not isinstance(post_processor, AprilGanPostProcessor | None):
            return
        text, peaks, maxima, label = self._validation_scores.take()
        self.model.set_score_bounds(peaks if label is not None and label.any() != label.all() else None)
        if post_processor is not None:
            post_processor.calibrate(self.model.image_score(text, peaks), maxima, label, self.model.map_upper_bound())

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> STEP_OUTPUT:
        """Predictions. Raise ValueError if one is not a finite number."""
        batch = super().predict_step(batch, batch_idx, dataloader_idx)
        batch.raw_score = batch.pred_score  # for the table: the post-processor normalises the other
        check_finite(batch.pred_score + map_maxima(batch.anomaly_map), "scores", batch.image_path)
        return batch

    test_step = predict_step
