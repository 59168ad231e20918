# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Data for adapter training, reference images and the demo."""

from anomalib_aprilgan.data.auxiliary import AuxiliaryDataModule
from anomalib_aprilgan.data.auxiliary_dataset import AuxiliaryDataset, CategoryBatch, CategoryItem
from anomalib_aprilgan.data.demo import DemoDataModule
from anomalib_aprilgan.data.parts import PartsDataModule
from anomalib_aprilgan.data.real import ElpvDataModule, TextileDataModule

__all__ = [
    "AuxiliaryDataModule",
    "AuxiliaryDataset",
    "CategoryBatch",
    "CategoryItem",
    "DemoDataModule",
    "ElpvDataModule",
    "PartsDataModule",
    "TextileDataModule",
]
