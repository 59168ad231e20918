# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""``aprilgan prompts``: the sentences about a class name, and the states that images lean to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anomalib_aprilgan.cli.errors import clear_errors


def prompts(
    *,
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
