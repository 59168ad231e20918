# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""``aprilgan demo``: a page in the browser."""

from __future__ import annotations

from anomalib_aprilgan.cli.errors import clear_errors


def demo(
    backbone: str = "ViT-L-14-336",
    pretrained: str | None = "openai",
    image_size: int = 518,
    adapters: str | None = "mvtecad",
    host: str = "127.0.0.1",
    port: int = 7860,
) -> None:
    """Open a page in the browser to try the model on own images, which only this machine can open.

    What it is sent is deleted when it is answered, and when the page stops.

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
