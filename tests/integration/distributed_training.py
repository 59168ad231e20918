# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""A program for test_distributed.py: trains and tests on some CPU processes, and writes what came of it.

python tests/integration/distributed_training.py ARGUMENTS.json N_DEVICES FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine

from anomalib_aprilgan import AprilGan, AuxiliaryDataModule

DATASET = Path(__file__).parents[1] / "golden" / "dataset"
GLOBAL_BATCH = 4


def main(arguments: dict, n_devices: int, folder: Path) -> None:
    batches = {"train_batch_size": GLOBAL_BATCH // n_devices, "num_workers": 0}
    auxiliary, target = (MVTecAD(DATASET, name, eval_batch_size=2, **batches) for name in ("bolt", "fabric"))
    data = AuxiliaryDataModule(auxiliary, target, categories=["bolt"], **batches)
    model = AprilGan(**arguments, adapters=None, k_shot=2)
    engine = Engine(
        default_root_dir=folder,
        accelerator="cpu",
        devices=n_devices,
        strategy="ddp" if n_devices > 1 else "auto",
        max_epochs=2,
        limit_train_batches=2,  # an even share for each process: nine images do not halve
        logger=False,
        enable_progress_bar=False,
    )
    engine.fit(model, datamodule=data)
    loss = engine.trainer.callback_metrics["train_loss"]
    (metrics,) = engine.test(model, datamodule=data)
    rank = engine.trainer.global_rank
    engine.predict(model, datamodule=data)
    torch.save({"state": model.state_dict(), "loss": loss, "metrics": metrics}, folder / f"{n_devices}-{rank}.pt")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), int(sys.argv[2]), Path(sys.argv[3]))
