# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""APRIL-GAN as an anomalib model: steps, hooks and components; no tensor maths."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from anomalib import LearningType
from anomalib.data import AnomalibDataModule
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import ImageVisualizer, Visualizer
from lightning.pytorch import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn
from torchvision.transforms.v2 import Transform

from anomalib_aprilgan.clip.encoder import IMAGE_MEAN, IMAGE_STD, ClipEncoder, image_statistics
from anomalib_aprilgan.compat.lightning import unrepeated
from anomalib_aprilgan.components import checkpoint as checkpoints
from anomalib_aprilgan.components.evaluator import AprilGanEvaluator
from anomalib_aprilgan.components.export import AprilGanExport
from anomalib_aprilgan.components.graceful_shutdown import GracefulShutdown
from anomalib_aprilgan.components.metrics import image_metrics, pixel_metrics
from anomalib_aprilgan.components.post_processor import AprilGanPostProcessor
from anomalib_aprilgan.components.pre_processor import AprilGanPreProcessor
from anomalib_aprilgan.components.predictions import add_to_table, start_table
from anomalib_aprilgan.components.visualizer import AprilGanVisualizer
from anomalib_aprilgan.data.auxiliary import AuxiliaryDataModule
from anomalib_aprilgan.data.predict import leave_out_unreadable
from anomalib_aprilgan.data.references import choose_references, contents, read_references, read_views
from anomalib_aprilgan.data.released_adapters import RELEASED_ADAPTERS, auto_adapters, fetch_adapters
from anomalib_aprilgan.prompts import PromptEnsemble, check_class_name
from anomalib_aprilgan.torch_model import AprilGanModel, check_finite, peak

logger = logging.getLogger(__name__)

# Not anomalib's model.ckpt: a test after training would replace it.
CALIBRATED = "calibrated.ckpt"
NAMED_ADAPTERS = ("auto", *RELEASED_ADAPTERS)


class AprilGan(AprilGanExport, AnomalibModule):  # type: ignore[misc]  # to_onnx differs, as in anomalib
    """APRIL-GAN: zero- and few-shot anomaly detection with a frozen CLIP (arXiv:2305.17382).

    Args:
        backbone: open_clip architecture, path of an open_clip model configuration (.json), or "demo", a tiny ViT.
        pretrained: open_clip tag, path of a checkpoint, or None for random weights (tests).
        image_size: Height and width in pixels to which images are resized; a multiple of the patch size.
        layers: 1-based numbers of the tapped layers. None: four equal stages (ViT-L: 6, 12, 18, 24; CNN: 1 to 4).
        quick_gelu: Run CLIP with QuickGELU, as OpenAI's weights were trained. The released adapters need False.
        adapters: "mvtecad" or "visa", the authors' adapters trained on that data set; "auto", the one that was not
            trained on the data set to be tested; path of a file (theirs, or a checkpoint of ours); None: to be trained.
        class_name: Word for the object in the prompts. None: the data module's category, else "object".
        k_shot: Number of normal reference images. 0: zero-shot.
        few_shot_source: Folder from which the references are drawn, or a list of exactly ``k_shot`` images. None: the
            data module's normal training images.
        with_replacement: Draw references with replacement, as the authors do.
        coreset_sampling_ratio: Share of each reference's patch tokens that memory banks keep, in (0, 1]; PatchCore's
            sampler chooses them.
        half_precision_memory: Keep memory banks in bfloat16, in half the room.
        seed: Of the draw, and of the initial weights of adapters to be trained.
        prompts: Path of a YAML file with normal_states, abnormal_states, templates and class_names, or its content.
            None: the report's ensemble.
        learning_rate: Of the adapters' training with Adam.
        false_positive_rate: Share of normal images, in [0, 1), that may be called abnormal where thresholds come from
            normal images alone: the references, or a validation set without defects.
        pre_processor: Instance, or True for resizing to ``image_size`` and CLIP's normalisation.
        post_processor: Instance, or True for the rank-preserving one.
        evaluator: Instance, or True for AUROC, F1Max and AUPR of images and pixels and AUPRO.
        visualizer: Instance, or True for anomalib's with captions.

    Raises:
        ValueError: If an argument is out of range or the weights or adapters do not fit the backbone.
        FileNotFoundError: If a given file does not exist.
        ConnectionError: If CLIP's weights are neither cached nor to be downloaded.
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
        seed: int = 0,
        prompts: str | dict[str, Any] | None = None,
        learning_rate: float = 1e-3,
        false_positive_rate: float = 0.01,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        if pre_processor is True:
            mean, std = image_statistics(backbone, pretrained)
            pre_processor = self.configure_pre_processor((image_size, image_size), mean, std)
        if post_processor is True:
            post_processor = AprilGanPostProcessor(false_positive_rate=false_positive_rate)
        super().__init__(pre_processor, post_processor, evaluator, visualizer)
        if k_shot < 0:
            msg = f"`k_shot` must be 0 (zero-shot) or the number of reference images, got {k_shot}."
            raise ValueError(msg)
        if class_name is not None:
            check_class_name(class_name)
        self.adapters = adapters
        self.class_name = class_name
        self.k_shot = k_shot
        self.few_shot_source = few_shot_source
        self.with_replacement = with_replacement
        self.seed = seed
        self.learning_rate = learning_rate

        encoder = ClipEncoder(backbone, pretrained, image_size, layers, quick_gelu)
        ensemble = PromptEnsemble(**prompts) if isinstance(prompts, dict) else PromptEnsemble.from_yaml(prompts)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.model: AprilGanModel = AprilGanModel(
                encoder, ensemble, image_size, coreset_sampling_ratio, half_precision_memory
            )
        self.reference_paths: list[str] = []
        self._target: list[Any] | None = None
        self._category_features: dict[str, Tensor] = {}
        self._adapters_ready = False
        self._calibrated = False
        if adapters is not None and adapters not in NAMED_ADAPTERS:
            self._load_adapters(adapters)

    # --- what anomalib asks a model ---

    @property
    def learning_type(self) -> LearningType:
        """ONE_CLASS while adapters are to be trained: Engine trains no zero- and few-shot models. Else by k_shot."""
        if self.adapters is None:
            return LearningType.ONE_CLASS
        return LearningType.FEW_SHOT if self.k_shot else LearningType.ZERO_SHOT

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
        """AUROC, F1Max and AUPR (average precision) of images and pixels, and AUPRO."""
        return AprilGanEvaluator(test_metrics=[*image_metrics(), *pixel_metrics()])

    @classmethod
    def configure_visualizer(cls) -> ImageVisualizer:
        """The visualizer with captions."""
        return AprilGanVisualizer()

    def configure_callbacks(self) -> list[Callback]:
        """The components of anomalib, and an orderly end when the run is interrupted."""
        components: Any = super().configure_callbacks()
        return [*components, GracefulShutdown()]

    def configure_optimizers(self) -> torch.optim.Optimizer | None:
        """Adam over the adapters, or None if they are not trained."""
        if self.adapters is not None:
            return None
        return torch.optim.Adam(self.model.adapters.parameters(), lr=self.learning_rate, betas=(0.5, 0.999))

    def val_dataloader(self) -> list:
        """No data: lets anomalib validate zero-shot models without any, as it does before predicting an image."""
        return []

    # --- setting up ---

    def setup(self, stage: str) -> None:
        """Check that the data fit the model; from here on checkpoints are whole files."""
        del stage
        checkpoints.use_whole_files(self.trainer.strategy)
        if self.adapters is not None and isinstance(self._datamodule, AuxiliaryDataModule):
            msg = (
                f"`adapters` is {self.adapters!r}, but an AuxiliaryDataModule is there to train new ones. Set "
                "`adapters` to None to train, or give the target data module alone to test."
            )
            raise ValueError(msg)

    def on_fit_start(self) -> None:
        """Encode the names of the auxiliary categories."""
        categories = getattr(self._datamodule, "train_categories", None)
        if not categories:
            msg = (
                "Adapters are trained on defects and their masks, but the training data of "
                f"{type(self._datamodule).__name__} are normal images without masks. Wrap a labelled data module in "
                "AuxiliaryDataModule, or set `adapters` to use trained ones."
            )
            raise ValueError(msg)
        self._category_features = {name: self.model.encode_class_name(name) for name in categories}

    def on_validation_start(self) -> None:
        """Set class name and references."""
        self._set_target()

    def on_test_start(self) -> None:
        """Set class name, references and, if there was no validation, thresholds."""
        self.prepare()

    def on_predict_start(self) -> None:
        """The same, after a look at the files."""
        leave_out_unreadable(self.trainer)
        self.prepare()
        start_table(self._table)

    def prepare(self) -> None:
        """Set class name, references and thresholds as a prediction would first, which needs no data module."""
        self._set_target()
        self._calibrate()

    def _set_target(self) -> None:
        """Bring adapters, text features and memory banks in line with the arguments and the data, if they are not.

        This happens here and not in setup(), because only now a checkpoint is restored and the model is on its device.
        """
        self._fetch_adapters()
        class_name = self._wanted_class_name()
        source = self.few_shot_source if isinstance(self.few_shot_source, list) else str(self.few_shot_source)
        target = [class_name, self.k_shot, source if self.k_shot else None, self.with_replacement, self.seed]
        if self.k_shot and self.model.coreset_sampling_ratio != 1:  # checkpoints from before there were coresets fit
            target.append(self.model.coreset_sampling_ratio)
        by_hand = self._target is None and self.model.class_name == class_name and not self.k_shot
        if target != self._target and not by_hand:
            if self._target is not None:
                logger.warning("Target changed from %s to %s: thresholds need a new validation.", self._target, target)
            self._set_up_model(class_name)
        self._target = target

    def _fetch_adapters(self) -> None:
        """Fetch named adapters, unless a checkpoint has brought some."""
        if self._adapters_ready:
            return
        if self.adapters is None:
            logger.warning("The adapters are untrained: anomaly maps are meaningless. Train them or set `adapters`.")
            return
        name = auto_adapters(self._datamodule) if self.adapters == "auto" else self.adapters
        logger.info("Adapters trained on %s", name)
        self._load_adapters(fetch_adapters(name))

    def _set_up_model(self, class_name: str) -> None:
        logger.info("Class name in the prompts: %s", class_name)
        self.reference_paths = choose_references(
            self.k_shot, self.few_shot_source, self._datamodule, self.seed, self.with_replacement
        )
        references = None
        if self.reference_paths:
            logger.info("Reference images: %s", ", ".join(self.reference_paths))
            references = read_references(self.reference_paths, self.reference_transform)
        self.model.setup(class_name, references)
        if isinstance(self.post_processor, AprilGanPostProcessor):
            self.post_processor.assume_range(self.model.map_maximum)
        self._calibrated = False

    def _calibrate(self) -> None:
        """Set thresholds from the references, each compared with the others, unless they come from a validation."""
        if self._calibrated or not self.reference_paths or not isinstance(self.post_processor, AprilGanPostProcessor):
            return
        files = contents(self.reference_paths)
        if len(set(files)) == 1:
            logger.warning("A single reference is compared with itself: thresholds are too low. Use two or more.")
        scores = [self._held_out_scores(files, file) for file in dict.fromkeys(files)]
        self.post_processor.calibrate(self.model, *(torch.cat(parts) for parts in zip(*scores, strict=True)))
        self._calibrated = True

    def _held_out_scores(self, files: list[str], file: str) -> tuple[Tensor, Tensor]:
        """Text scores (V,) and map maxima (V,) of a reference's views, compared with the references that differ."""
        others = [index for index, other in enumerate(files) if other != file] or list(range(len(files)))
        path = self.reference_paths[files.index(file)]
        with torch.no_grad():
            images = read_views(path, self.reference_transform).to(self.model.text_features.device)
            text, anomaly_map = self.model.score_and_map(images, self.model.memory.of(others, self.k_shot))
        check_finite(text + peak(anomaly_map), "scores", [path] * len(images))
        return text, peak(anomaly_map)

    def _wanted_class_name(self) -> str:
        """The argument, the data module's category, what a checkpoint or an earlier run set, or "object"."""
        return self.class_name or getattr(self._datamodule, "category", None) or self.model.class_name or "object"

    @property
    def reference_transform(self) -> Transform:
        """What makes a reference image the model's input."""
        if isinstance(self.pre_processor, PreProcessor):
            return self.pre_processor.transform
        return self.configure_pre_processor((self.model.image_size, self.model.image_size)).transform

    @property
    def _table(self) -> Path:
        """Where this process writes its predictions."""
        rank = self.trainer.global_rank
        return Path(self.trainer.default_root_dir) / f"predictions{f'-{rank}' if rank else ''}.csv"

    @property
    def _datamodule(self) -> AnomalibDataModule | None:
        return getattr(self._trainer, "datamodule", None)

    def _load_adapters(self, path: str | Path) -> None:
        self.model.adapters.load_file(path)
        self._adapters_ready = True

    # --- steps ---

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The sum of the stages' focal and dice losses of a batch with masks and categories."""
        del batch_idx
        features = torch.stack([self._category_features[category] for category in batch.category])
        focal, dice = self.model.stage_losses(batch.image, batch.gt_mask.float(), features)
        loss = (focal + dice).sum()
        # A step along it would ruin the adapters for good.
        check_finite(loss.detach().expand(len(batch.image)), "losses", batch.image_path)
        options: dict[str, Any] = {"on_step": False, "on_epoch": True, "prog_bar": True, "sync_dist": True}
        self.log("train_loss", loss, batch_size=len(batch.image), **options)
        self._adapters_ready = True
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> STEP_OUTPUT:
        """Predictions; few-shot image scores are provisional: their bounds are known only at the epoch's end."""
        text, anomaly_map = self.model.score_and_map(batch.image)
        peaks = peak(anomaly_map)
        check_finite(text + peaks, "scores", batch.image_path)
        own = unrepeated(batch, self.trainer, batch_idx)
        if isinstance(self.post_processor, AprilGanPostProcessor) and own is not None:
            self.post_processor.observe(text[: len(own)], peaks[: len(own)], own.gt_label)
            self._calibrated |= batch.gt_label is not None
        return batch.update(pred_score=self.model.image_score(text, peaks), anomaly_map=anomaly_map)

    def test_step(self, batch: Any, batch_idx: int, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """Predictions."""
        return _checked(super().test_step(batch, batch_idx, *args, **kwargs))

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> STEP_OUTPUT:
        """Predictions."""
        return _checked(super().predict_step(batch, batch_idx, dataloader_idx))

    def on_predict_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Write scores and decisions, which the post-processor has completed, to predictions.csv."""
        del outputs, batch_idx, dataloader_idx
        threshold = None
        if isinstance(self.post_processor, PostProcessor):
            threshold = float(self.post_processor.normalized_image_threshold)
        add_to_table(self._table, batch, threshold)

    # --- checkpoints ---

    def on_validation_end(self) -> None:
        """Keep what a validation outside training has calibrated, for which anomalib saves no checkpoint."""
        folder = getattr(self.trainer.checkpoint_callback, "dirpath", None)
        if self.trainer.state.fn == TrainerFn.VALIDATING and folder is not None and any(self.trainer.num_val_batches):
            path = Path(folder) / CALIBRATED
            self.trainer.save_checkpoint(path)
            logger.info("Thresholds, references and adapters are kept in %s", path)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """The model that was saved, with the arguments that it was made with or those given by name.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged, would run code, is newer than this package, or was made with another
                model than the arguments make.
        """
        with checkpoints.naming(checkpoint_path):
            if not checkpoints.is_remote(checkpoint_path):
                content = checkpoints.WholeCheckpointIO(cls.checkpoint_safe_globals()).load_checkpoint(checkpoint_path)
                checkpoints.own_part(content)
            return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out the frozen CLIP; make the hyper-parameters independent of other files than CLIP's."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["state_dict"] = checkpoints.without_encoder(checkpoint["state_dict"])
        hyper_parameters = checkpoint["hyper_parameters"]
        if self.adapters is not None:
            hyper_parameters["adapters"] = "auto"  # fetched only if the checkpoint did not bring them, which it does
        if hyper_parameters.get("prompts") is not None:
            hyper_parameters["prompts"] = asdict(self.model.prompts)
        checkpoint[checkpoints.KEY] = {
            "version": checkpoints.VERSION,
            "model": checkpoints.describe(self.model),
            "class_name": self.model.class_name,
            "target": self._target,
            "reference_paths": self.reference_paths,
            "adapters": self.adapters,
            "adapters_ready": self._adapters_ready,
            "calibrated": self._calibrated,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint fits, and complete it with this model's CLIP."""
        with checkpoints.naming(None if self._trainer is None else self._trainer.ckpt_path):
            ours = checkpoints.check(checkpoint, self.model)
        super().on_load_checkpoint(checkpoint)
        self.model.memory.resize(checkpoints.memory_rows(checkpoint["state_dict"]))
        checkpoint["state_dict"] = checkpoints.with_encoder(checkpoint["state_dict"], self.state_dict())
        self.model.class_name = ours["class_name"]
        self.reference_paths = ours["reference_paths"]
        self._target = ours["target"]
        self._adapters_ready = ours["adapters_ready"]
        self._calibrated = ours["calibrated"]


def _checked(batch: Any) -> Any:
    """The batch, whose predictions are numbers: decisions about what is none would be made up."""
    check_finite(batch.pred_score + peak(batch.anomaly_map), "scores", batch.image_path)
    return batch
