# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The command line ``aprilgan``. Heavy imports are made by the subcommands that need them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli


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
    with _clear_errors():
        from anomalib_aprilgan.leanings import checked_sentences  # noqa: PLC0415
        from anomalib_aprilgan.prompts import PromptEnsemble  # noqa: PLC0415

        normal, abnormal = checked_sentences(PromptEnsemble.from_yaml(prompts), class_name, backbone)
        if images:
            _print_leanings(class_name, images, backbone, pretrained, image_size, prompts)
            return
    print(f"{len(normal)} sentences about a normal {class_name}:", *normal, sep="\n  ")
    print(f"{len(abnormal)} sentences about an abnormal {class_name}:", *abnormal, sep="\n  ")


def _print_leanings(class_name: str, sources: list[Path], *model_arguments: Any) -> None:
    import torch  # noqa: PLC0415
    from anomalib.data.utils import get_image_filenames  # noqa: PLC0415

    from anomalib_aprilgan import AprilGan  # noqa: PLC0415
    from anomalib_aprilgan.data.references import read_references  # noqa: PLC0415
    from anomalib_aprilgan.leanings import leanings  # noqa: PLC0415

    backbone, pretrained, image_size, prompts = model_arguments
    paths = [path for source in sources for path in get_image_filenames(source)]
    module = AprilGan(backbone, pretrained, image_size, prompts=prompts)
    with torch.no_grad():
        found = leanings(module.model, class_name, read_references(paths, module.reference_transform))
    print("abnormal  leans to")
    for path, leaning in zip(paths, found, strict=True):
        top = ", ".join(f"{state} {share:.0%}" for state, share in list(leaning.states.items())[:3])
        print(f"{leaning.text_score:8.1%}  {top}  {path}")


def demo(
    backbone: str = "ViT-L-14-336",
    pretrained: str | None = "openai",
    image_size: int = 518,
    adapters: str | None = "mvtecad",
    host: str = "127.0.0.1",
    port: int = 7860,
) -> None:
    """Open a page to try the model on one's own images. It keeps nothing, and is reached from this machine only.

    Args:
        backbone: open_clip architecture, path of an open_clip model configuration (.json), or "demo".
        pretrained: open_clip tag, path of a checkpoint, or null for random weights.
        image_size: Height and width in pixels to which images are resized.
        adapters: As of AprilGan, such as the path of a checkpoint; null: untrained ones.
        host: Address to listen on; 0.0.0.0 lets other machines in.
        port: Port to listen on.
    """
    with _clear_errors():
        from anomalib_aprilgan.page import Inspector, build_page, serve  # noqa: PLC0415

        inspector = Inspector(backbone, pretrained, image_size, adapters)
        serve(build_page(inspector), host, port)


COMMANDS: dict[str, Any] = {"prompts": prompts, "demo": demo}


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Shows an error about the input as one sentence instead of a traceback."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"aprilgan: error: {error}")


def main() -> None:
    """Run the subcommand that the command line names."""
    auto_cli(COMMANDS, as_positional=False)
