# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Components of a model as True, False, an instance and a wrong type; models out of configuration files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from anomalib.engine import Engine
from anomalib.metrics import AUROC, Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import ImageVisualizer, Visualizer
from lightning.pytorch.core.module import _jit_is_scripting
from torchvision.transforms.v2 import Normalize, Resize

from anomalib_aprilgan import AprilGan, AuxiliaryDataModule
from anomalib_aprilgan.clip.configuration import IMAGE_MEAN, IMAGE_STD
from conftest import DATASET, GOLDEN_SIZE, Engines, Models, golden_data

KINDS = {
    "pre_processor": PreProcessor,
    "post_processor": PostProcessor,
    "evaluator": Evaluator,
    "visualizer": Visualizer,
}


@pytest.mark.parametrize("name", KINDS)
def test_component(make_model: Models, name: str) -> None:
    assert isinstance(getattr(make_model(**{name: True}), name), KINDS[name])
    assert getattr(make_model(**{name: False}), name) is None
    own = {"visualizer": ImageVisualizer, "pre_processor": lambda: PreProcessor(Normalize([0.5] * 3, [0.5] * 3))}
    instance = own.get(name, KINDS[name])()
    assert getattr(make_model(**{name: instance}), name) is instance
    with pytest.raises(TypeError, match="Passed object should be"):
        make_model(**{name: "neither"})


@pytest.mark.parametrize("name", KINDS)
def test_a_run_without_a_component(make_model: Models, engine: Engines, tmp_path: Path, name: str) -> None:
    """What it would have made is absent, all else is there."""
    components = {each: each != name for each in KINDS}
    resized = {"augmentations": Resize((GOLDEN_SIZE, GOLDEN_SIZE))} if name == "pre_processor" else {}
    (metrics,) = engine(tmp_path).test(make_model(**components), datamodule=golden_data(eval_batch_size=4, **resized))
    assert ("image_AUROC" in metrics) == (name != "evaluator")
    assert ("image_F1Score" in metrics) == (name not in {"evaluator", "post_processor"})
    assert bool(list(tmp_path.rglob("*.png"))) == (name != "visualizer")


def test_a_users_components_are_used(make_model: Models, engine: Engines) -> None:
    evaluator = Evaluator(test_metrics=AUROC(fields=["pred_score", "gt_label"], prefix="mine_"))
    (metrics,) = engine().test(make_model(evaluator=evaluator), datamodule=golden_data(eval_batch_size=4))
    assert set(metrics) == {"mine_AUROC"}


def test_components_travel_in_a_checkpoint(make_model: Models, engine: Engines, tmp_path: Path) -> None:
    model = make_model(post_processor=False)
    engine(tmp_path).fit(model, datamodule=golden_data(eval_batch_size=4))
    (path,) = tmp_path.rglob("*.ckpt")
    loaded = AprilGan.load_from_checkpoint(path)
    assert loaded.post_processor is None
    assert loaded.visualizer is None
    assert isinstance(loaded.evaluator, Evaluator)


def test_models_and_engines_out_of_configuration_files(tiny_arguments: dict, tmp_path: Path) -> None:
    data = {"class_path": "anomalib.data.MVTecAD", "init_args": {"root": str(DATASET), "category": "bolt"}}
    path = tmp_path / "config.yaml"
    for class_path in ("anomalib_aprilgan.AprilGan", "anomalib.models.AprilGan", "anomalib.models.image.AprilGan"):
        arguments = {**tiny_arguments, "k_shot": 1}
        model = {"class_path": class_path, "init_args": arguments}
        path.write_text(yaml.safe_dump({"model": model}))
        for kind in (AnomalibModule, AprilGan):
            made = kind.from_config(path)
            assert (type(made), made.request.k_shot, made.model.image_size) == (AprilGan, 1, 70)
    path.write_text(yaml.safe_dump({"model": model, "data": data}))
    engine, made, datamodule = Engine.from_config(path)
    assert isinstance(engine, Engine)
    assert (type(made), datamodule.category) == (AprilGan, "bolt")


def test_the_static_parts_that_anomalib_asks_of_a_class() -> None:
    pre_processor = AprilGan.configure_pre_processor((70, 84))
    image = torch.zeros(1, 3, 20, 30)
    expected = -torch.tensor(IMAGE_MEAN) / torch.tensor(IMAGE_STD)
    torch.testing.assert_close(pre_processor.transform(image), expected[None, :, None, None].expand(1, 3, 70, 84))
    assert isinstance(AprilGan.configure_visualizer(), ImageVisualizer)
    assert isinstance(AprilGan.configure_evaluator(), Evaluator)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_model_can_be_traced(make_model: Models) -> None:
    """As anomalib's GraphLogger does at the end of a training."""
    model = make_model(class_name="bolt").eval()
    model.prepare()
    image = torch.rand(1, 3, 100, 90)

    def forward(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        prediction = model.model(model.pre_processor(images))
        return prediction.pred_score, prediction.anomaly_map

    torch.testing.assert_close(torch.jit.trace(forward, image)(image), forward(image))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:This property will be removed")
def test_a_model_that_was_only_trained_can_be_traced(make_model: Models, engine: Engines) -> None:
    """Nothing was looked for yet, and torch looks at all properties first."""
    model = make_model(adapters=None)
    engine(max_epochs=1, limit_train_batches=1).fit(model, datamodule=AuxiliaryDataModule(golden_data(), num_workers=0))
    model.eval()
    with _jit_is_scripting():  # as Lightning's loggers do
        traced = torch.jit.trace(model, image := torch.rand(1, 3, 100, 90), strict=False)
    torch.testing.assert_close(traced(image)[0], model(image).pred_score)
