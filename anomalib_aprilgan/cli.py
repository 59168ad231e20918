# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The command line ``aprilgan``. Heavy imports are made by the subcommands that need them."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any, Literal

from jsonargparse import auto_cli

from anomalib_aprilgan.comparison.commands import clear_errors, compare, figure, table


def prompts(
    class_name: str,
    prompts: str | None = None,
    images: list[Path] | None = None,
    backbone: str = "ViT-L-14-336",
    pretrained: str | None = "openai",
    image_size: int = 518,
) -> None:
    """Print the sentences about a class name, or which states images of it lean to.

    Args:
        class_name: Word for the inspected object.
        prompts: YAML file of the prompts; default: the report's.
        images: Image files or folders of them.
        backbone: open_clip architecture, path of an open_clip model configuration (.json), or "demo".
        pretrained: open_clip tag, path of a checkpoint, or null for random weights.
        image_size: Height and width in pixels to which images are resized.
    """
    with clear_errors():
        from anomalib_aprilgan.clip.text import checked_prompts  # noqa: PLC0415
        from anomalib_aprilgan.prompts import PromptEnsemble  # noqa: PLC0415

        normal, abnormal = checked_prompts(PromptEnsemble.from_yaml(prompts), class_name, backbone)
        if images:
            _print_leanings(class_name, images, backbone, pretrained, image_size, prompts)
            return
    print(f"{len(normal)} sentences about a normal {class_name}:", *normal, sep="\n  ")
    print(f"{len(abnormal)} sentences about an abnormal {class_name}:", *abnormal, sep="\n  ")


def _print_leanings(class_name: str, sources: list[Path], *model_arguments: Any) -> None:
    import torch  # noqa: PLC0415

    from anomalib_aprilgan import AprilGan  # noqa: PLC0415
    from anomalib_aprilgan.clip.prompt_probabilities import state_probabilities  # noqa: PLC0415
    from anomalib_aprilgan.data.listing import image_files  # noqa: PLC0415
    from anomalib_aprilgan.data.references import read_references  # noqa: PLC0415

    backbone, pretrained, image_size, prompts = model_arguments
    paths = [path for source in sources for path in image_files(source)]
    module = AprilGan(backbone, pretrained, image_size, prompts=prompts)
    with torch.no_grad():
        model, references = module.model, read_references(paths, module.reference_transform)
        found = state_probabilities(model.encoder, model.prompts, class_name, references)
    print("abnormal  leans to")
    for path, image in zip(paths, found, strict=True):
        top = ", ".join(f"{state} {probability:.0%}" for state, probability in list(image.states.items())[:3])
        print(f"{image.text_score:8.1%}  {top}  {path}")


def demo(
    backbone: str = "ViT-L-14-336",
    pretrained: str | None = "openai",
    image_size: int = 518,
    adapters: str | None = "mvtecad",
    host: str = "127.0.0.1",
    port: int = 7860,
) -> None:
    """Open a page in the browser to try the model on own images, which only this machine can open.

    What it is sent is deleted ten minutes later, and when it stops.

    Args:
        backbone: open_clip architecture, path of an open_clip model configuration (.json), or "demo".
        pretrained: open_clip tag, path of a checkpoint, or null for random weights.
        image_size: Height and width in pixels to which images are resized.
        adapters: "mvtecad", "visa", path of a checkpoint, or null for untrained ones.
        host: Address to listen on; 0.0.0.0 lets other machines in.
        port: Port to listen on.
    """
    with clear_errors():
        from anomalib_aprilgan.app import Inspector, build_page, serve  # noqa: PLC0415

        inspector = Inspector(backbone, pretrained, image_size, adapters)
        serve(build_page(inspector), host, port)


def validate(
    export: Path,
    data: Path,
    checkpoint: Path,
    score_limit: float = 1e-4,
    map_limit: float = 5e-3,
    decisions_limit: int = 0,
    precision: Literal["f32", "bf16"] = "f32",
    threads: int | None = None,
) -> None:
    """Compare an exported file with the model that it was made from. The exit code is 1 if they differ too much.

    Args:
        export: The file: .pt, .onnx or .xml.
        data: Folder of images.
        checkpoint: Of the model.
        score_limit: Largest difference of raw scores.
        map_limit: Largest difference of a pixel of raw anomaly maps.
        decisions_limit: Images that one may call normal and the other abnormal, beyond rounding at the threshold.
        precision: Of OpenVINO; on processors with bfloat16 its own default is bf16.
        threads: Of both.

    Raises:
        SystemExit: If a limit is exceeded, or with a message if a file is missing or of another kind.
    """
    from anomalib_aprilgan import AprilGan  # noqa: PLC0415
    from anomalib_aprilgan.components.export_validation import Limits, compare_export, images_of  # noqa: PLC0415

    with clear_errors():
        load = partial(AprilGan.load_from_checkpoint, checkpoint, visualizer=False)
        result = compare_export(export, images_of(data), load, precision, threads)
    print(*result.lines(), sep="\n")
    faults = result.faults(Limits(score_limit, map_limit, decisions_limit))
    print(f"{export} differs from its model: {'; '.join(faults)}" if faults else f"{export} agrees with its model")
    if faults:
        sys.exit(1)


def main() -> None:
    """Run the subcommand that the command line names."""
    auto_cli([compare, table, figure, prompts, demo, validate], as_positional=False)
