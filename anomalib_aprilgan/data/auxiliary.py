# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The auxiliary data set: the labelled images of other objects on which adapters are trained."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from anomalib.data import AnomalibDataModule
from anomalib.data.errors import MisMatchError
from anomalib.data.utils import ValSplitMode
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from anomalib_aprilgan.compat.anomalib import category_folders
from anomalib_aprilgan.compat.memory import free_bytes
from anomalib_aprilgan.data.auxiliary_dataset import AuxiliaryDataset, EpochSampler, ResumableLoader
from anomalib_aprilgan.data.listing import is_hidden, leave_out_hidden
from anomalib_aprilgan.data.masks import check_datamodule


class AuxiliaryDataModule(AnomalibDataModule):
    """Trains on the test images of an auxiliary data set, with their masks, and tests on a target data set.

    All test images of an auxiliary category are used, also those that its data module keeps for validation.

    Args:
        auxiliary: Data module of the labelled images. If it has categories, all of them are used. If it has none, such
            as Folder, its name is the only category.
        target: Data module of the validation and test images. None: only training is possible.
        categories: Names of the auxiliary categories. None: all that are on disk.
        mosaic_probability: Probability that an image becomes a 2x2 mosaic. The authors use 0.2 on MVTec AD, 0 on VisA.
        train_batch_size: Images per step; the authors' code uses 8, the paper says 16.
        num_workers: Number of processes that load training images.
        seed: Seed of the images' order and of the mosaics.

    Raises:
        ValueError: If a category does not exist, has no masks, or is the target itself.

    Example:
        >>> from anomalib_aprilgan import AuxiliaryDataModule, DemoDataModule
        >>> coins, gravel = DemoDataModule(category="coins"), DemoDataModule(category="gravel")
        >>> data = AuxiliaryDataModule(coins, target=gravel, categories=["coins"], num_workers=0)
        >>> data.prepare_data()
        >>> data.setup()
        >>> data.name, data.train_categories, len(data.train_data)
        ('DemoDataModule-to-DemoDataModule', ['coins'], 60)
        >>> item = data.train_data[0]  # one of the coins' test images, or a mosaic of four
        >>> item.image.shape, item.gt_mask.shape, item.category
        (torch.Size([3, 224, 224]), torch.Size([224, 224]), 'coins')
        >>> next(iter(data.test_dataloader())).image.shape  # of gravel
        torch.Size([8, 3, 224, 224])
    """

    def __init__(
        self,
        auxiliary: AnomalibDataModule,
        target: AnomalibDataModule | None = None,
        categories: list[str] | None = None,
        mosaic_probability: float = 0.2,
        train_batch_size: int = 8,
        num_workers: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__(train_batch_size, eval_batch_size=train_batch_size, num_workers=num_workers, seed=seed)
        if not 0 <= mosaic_probability <= 1:
            msg = f"`mosaic_probability` must be between 0 and 1, got {mosaic_probability}."
            raise ValueError(msg)
        self.auxiliary = auxiliary
        self.target = target
        self.categories = categories
        self.mosaic_probability = mosaic_probability
        self.category = target.category if target is not None else ""
        self.memory_for_files: float | None = None  # bytes that a training holds decoded; None: half of what is free
        self._next_epoch, self._seen = 0, 0

    @property
    def name(self) -> str:  # type: ignore[override]
        """The names of both data modules, such as "MVTecAD-to-Visa"."""
        return f"{self.auxiliary.name}-to-{self.target.name}" if self.target is not None else self.auxiliary.name

    @property
    def train_categories(self) -> list[str]:
        """The auxiliary categories, known after ``setup``."""
        return sorted(self.train_data.samples.category.unique())

    def prepare_data(self) -> None:
        """Download the data sets that are not on disk."""
        auxiliary = copy.deepcopy(self.auxiliary)
        if auxiliary.category:  # the default one need not be on disk, and would be downloaded with all others
            auxiliary.category = category_names(auxiliary)[0]
        auxiliary.prepare_data()
        if self.target is not None:
            self.target.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Collect the auxiliary images and set up the target; before training, check all images and masks."""
        if self.target is not None:
            self.target.trainer = self.trainer
            self.target.setup(stage)
            check_datamodule(self.target)
        if not hasattr(self, "train_data"):
            self._setup(stage)
        if stage == TrainerFn.FITTING:
            half = free_bytes() / 2 / (self.trainer.num_devices if self.trainer else 1)
            self.train_data.check_files(memory=half if self.memory_for_files is None else self.memory_for_files)
        self._update_augmentations()

    def teardown(self, stage: str) -> None:
        """Forget decoded files after training."""
        if hasattr(self, "train_data"):
            self.train_data.files.clear()
        super().teardown(stage)

    def _setup(self, _stage: str | None = None) -> None:
        tables = [_test_samples(self.auxiliary, name) for name in self._chosen_categories()]
        samples = pd.concat(tables, ignore_index=True)
        self.train_data: AuxiliaryDataset = AuxiliaryDataset(samples, self.mosaic_probability, seed=self.seed or 0)

    def _chosen_categories(self) -> list[str]:
        existing = category_names(self.auxiliary)
        chosen = existing if self.categories is None else self.categories
        unknown = sorted(set(chosen) - set(existing))
        if unknown or not chosen:
            msg = f"`categories` {unknown or chosen} are not in the auxiliary data set, which has {existing}."
            raise ValueError(msg)
        if _same_data_set(self.auxiliary, self.target) and self.category in chosen:
            msg = (
                f"The target category {self.category!r} is among the auxiliary ones: adapters would be trained on the "
                "images they are tested on. Leave it out of `categories`."
            )
            raise ValueError(msg)
        return chosen

    def train_dataloader(self) -> DataLoader:
        """Batches of auxiliary images. They depend on seed and epoch, not on ``num_workers``."""
        return ResumableLoader(
            dataset=self.train_data,
            sampler=self._sampler(),
            batch_size=self.train_batch_size,
            num_workers=self.num_workers,
            collate_fn=self.external_collate_fn or self.train_data.collate_fn,
        )

    def _sampler(self) -> EpochSampler:
        trainer: Any = self.trainer
        rank, size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        seen, self._seen = self._seen, 0  # another training with this data module starts at the first image
        return EpochSampler(self.train_data, self.train_data.seed, self._next_epoch, seen, rank, size)

    def state_dict(self) -> dict[str, int]:
        """Epoch and number of images seen with which a training resumes; Lightning saves them in checkpoints."""
        trainer: Any = self.trainer
        if trainer.is_last_batch:
            return {"next_epoch": trainer.current_epoch + 1, "seen": 0}
        batches = trainer.fit_loop.epoch_loop.batch_progress.current.processed
        return {"next_epoch": trainer.current_epoch, "seen": batches * self.train_batch_size}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Start with the epoch in the checkpoint. Lightning sets the sampler's epoch only after the first batches."""
        self._next_epoch = state_dict["next_epoch"]
        self._seen = state_dict.get("seen", 0)

    def val_dataloader(self) -> Sequence:
        """The target's loaders; none without a target."""
        return [] if self.target is None else self.target.val_dataloader()

    def test_dataloader(self) -> Sequence:
        """The target's loaders; none without a target."""
        return [] if self.target is None else self.target.test_dataloader()

    def predict_dataloader(self) -> Sequence:
        """The target's loaders; none without a target."""
        return [] if self.target is None else self.target.predict_dataloader()


def category_names(datamodule: AnomalibDataModule) -> list[str]:
    """The data set's categories on disk, or the data module's name if it has no categories."""
    if not datamodule.category:
        return [datamodule.name]
    if hasattr(datamodule, "categories"):  # those of a package are no folders
        return list(datamodule.categories)
    root = Path(getattr(datamodule, "split_root", "") or getattr(datamodule, "root", ""))
    return [name for name in category_folders(root) if not is_hidden(name, ".")] or [datamodule.category]


def _test_samples(datamodule: AnomalibDataModule, category: str) -> pd.DataFrame:
    """All test images of a category, normal and defective, as a table."""
    one = copy.deepcopy(datamodule)
    if one.category:
        one.category = category
    one.val_split_mode = ValSplitMode.NONE  # no test image goes to validation
    try:
        one.setup()
    except (ValueError, TypeError, FileNotFoundError, MisMatchError) as error:
        msg = f"The category {category!r} of {datamodule.name} can't be trained on. {error}"
        raise ValueError(msg) from error
    leave_out_hidden([one.test_data], getattr(one, "root", None))
    samples = one.test_data.samples
    if len(samples) == 0:
        msg = f"The category {category!r} of {datamodule.name} has no test images to train adapters on."
        raise ValueError(msg)
    return samples.assign(category=category)


def _same_data_set(one: AnomalibDataModule, other: AnomalibDataModule | None) -> bool:
    roots = [Path(getattr(each, "root", None) or "").resolve() for each in (one, other)]
    return other is not None and roots[0] == roots[1]


def check_for_evaluation(datamodule: object, adapters: str | None) -> None:
    """Check that nothing is to be trained if there are adapters, and that images and masks can be used.

    Raises:
        ValueError: If it is an AuxiliaryDataModule, or a file can't.
    """
    if isinstance(datamodule, AuxiliaryDataModule) and adapters is None:
        return  # has checked itself
    if isinstance(datamodule, AuxiliaryDataModule):
        msg = (
            f"`adapters` is {adapters!r}, but an AuxiliaryDataModule is there to train new ones. Set `adapters` to "
            "None to train, or give the target data module alone to test."
        )
        raise ValueError(msg)
    check_datamodule(datamodule)


def categories_to_train_on(datamodule: object) -> list[str]:
    """The auxiliary categories of a data module.

    Raises:
        ValueError: If it has none.
    """
    categories = getattr(datamodule, "train_categories", None)
    if not categories:
        msg = (
            "Adapters are trained on defects and their masks, but the training data of "
            f"{type(datamodule).__name__} are normal images without masks. Wrap a labelled data module in "
            "AuxiliaryDataModule, or set `adapters` to use trained ones."
        )
        raise ValueError(msg)
    return categories
