# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""Time of the model against its bare vision tower, and against a naive rendition, in one run with random weights.

python benchmarks/inference.py             # ViT-L/14 at 518 pixels, minutes on 2 CPU cores
python benchmarks/inference.py --quick     # ViT-B/32 at 224 pixels, seconds
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
from timing import best_times
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_aprilgan.clip.encoder import ClipEncoder
from anomalib_aprilgan.prompts import PromptEnsemble
from anomalib_aprilgan.torch_model import AprilGanModel

PROMPTS = PromptEnsemble(["{}"], ["damaged {}"], ["a photo of a {}."])


def main() -> None:
    options = parse()
    torch.manual_seed(0)
    encoder = ClipEncoder(options.backbone, None, options.image_size)
    model = AprilGanModel(encoder, PROMPTS, options.image_size).eval().to(options.device)
    model.setup("bottle")
    images = torch.randn(options.batch_size, 3, options.image_size, options.image_size, device=options.device)
    tokens = model.encoder(images[:1])[1]
    print(f"{options.backbone} at {options.image_size}, batch {options.batch_size}, {options.device}: seconds, and")
    print("times that of the bare tower in the same precision; rest: everything besides the tower\n")
    print("half: memory banks in bfloat16; coreset: a quarter of their rows")
    print(f"{'precision':10} {'what':27} {'seconds':>8} {'/ tower':>8}")
    naive = None
    for precision in options.precisions:
        functions: dict[str, Callable[[], object]] = {"tower": lambda: encoder.clip.encode_image(images)}
        encoded = Encoded(encoder, images, precision)
        for shots in options.shots:
            functions[f"{shots}-shot"] = few_shot(model, encoder, images, tokens, shots)
            functions[f"{shots}-shot, rest"] = few_shot(model, encoded, images, tokens, shots)
        if options.shots[-1]:
            for name, small in {"half": Small(torch.bfloat16), "half, coreset": Small(torch.bfloat16, 0.25)}.items():
                functions[f"{shots}-shot, rest, {name}"] = few_shot(model, encoded, images, tokens, shots, small)
        if options.compile:
            functions["tower, compiled"] = compiled(encoder, images)
        if precision == "float32" and options.naive:
            functions["naive 4-shot"] = naive_few_shot(model, encoder, images, tokens, 4)
        times = measure(functions, precision, options)
        naive = times.get("naive 4-shot", naive)
        for name, seconds in times.items():
            print(f"{precision:10} {name:27} {seconds:8.2f} {seconds / times['tower']:8.3f}")
        if naive and "4-shot" in times:
            print(f"{precision:10} naive 4-shot in float32 / 4-shot: {naive / times['4-shot']:.2f}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="ViT-L-14-336")
    parser.add_argument("--image_size", type=int, default=518)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--shots", type=int, nargs="+", default=[0, 1, 4, 10])
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="the tower under torch.compile, too")
    parser.add_argument("--no-naive", dest="naive", action="store_false")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.backbone, options.image_size, options.repeats = "ViT-B-32", 224, 1
        options.shots = [0, 4]
    return options


@torch.inference_mode()
def measure(
    functions: dict[str, Callable[[], object]], precision: str, options: argparse.Namespace
) -> dict[str, float]:
    half = getattr(torch, precision)
    with torch.autocast(options.device, dtype=half, enabled=half != torch.float32):
        return best_times(functions, options.repeats)


class Encoded(nn.Module):
    """An encoder that has done its work before: what is left is everything besides the tower."""

    def __init__(self, encoder: ClipEncoder, images: Tensor, precision: str) -> None:
        super().__init__()
        half = getattr(torch, precision)
        with torch.inference_mode(), torch.autocast(images.device.type, dtype=half, enabled=half != torch.float32):
            self.output = encoder(images)
        self.layers = encoder.layers

    def forward(self, _images: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self.output


@dataclass
class Small:
    """How memory banks are made smaller. Which rows remain makes no difference to the time."""

    dtype: torch.dtype = torch.float32
    fraction: float = 1.0

    def of(self, bank: Tensor) -> Tensor:
        return bank[: int(self.fraction * len(bank))].to(self.dtype)


def compiled(encoder: ClipEncoder, images: Tensor) -> Callable[[], object]:
    """The tower under torch.compile; its first call, which takes minutes, does not count."""
    tower = torch.compile(encoder.clip.encode_image)
    return lambda: tower(images)


FULL = Small()


def few_shot(
    model: AprilGanModel, encoder: nn.Module, images: Tensor, tokens: list[Tensor], shots: int, small: Small = FULL
) -> Callable[[], object]:
    """The model with memory banks of ``shots`` images."""
    banks = [small.of(bank) for bank in copies(tokens, shots)]

    def run() -> object:
        model.encoder = encoder
        model.memory.replace(banks if shots else [])
        return model(images)

    return run


def copies(tokens: list[Tensor], shots: int) -> list[Tensor]:
    """Unit rows (K * N, D) per stage, like the tokens (1, N, D) but not the same."""
    return [
        F.normalize(each[0].repeat(shots, 1) + torch.randn(shots * each.shape[1], 1, device=each.device), dim=-1)
        for each in tokens
    ]


def naive_few_shot(
    model: AprilGanModel, encoder: ClipEncoder, images: Tensor, tokens: list[Tensor], shots: int
) -> Callable[[], object]:
    """What the method costs without care: two passes, one image at a time, attention and search as plain products."""
    banks = copies(tokens, shots)

    def run() -> list[Tensor]:
        maps = []
        for image in images.split(1):
            embedding, _ = plain_tower(encoder, image)
            _, stages = plain_tower(encoder, image)
            scores = (100 * F.normalize(embedding, dim=-1) @ model.text_features.T).softmax(dim=-1)
            total = scores.new_zeros(1, model.image_size, model.image_size)
            for stage, linear, bank in zip(stages, model.adapters.fc, banks, strict=True):
                logits = 100 * F.normalize(linear(stage), dim=-1) @ model.text_features.T
                total += upsampled(logits, model.image_size).softmax(dim=1)[:, 1]
                distance = 1 - F.normalize(stage[0], dim=-1) @ F.normalize(bank, dim=-1).T
                total += upsampled(distance.amin(dim=-1)[None, :, None], model.image_size)[:, 0]
            maps.append(total)
        return maps

    return run


def plain_tower(encoder: ClipEncoder, image: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Embedding (1, E) and patch tokens of a ViT, with attention written out."""
    visual = encoder.clip.visual
    x = visual.conv1(image).flatten(2).transpose(1, 2)
    x = visual.ln_pre(torch.cat([visual.class_embedding.expand(1, 1, -1), x], dim=1) + visual.positional_embedding)
    stages = []
    for number, block in enumerate(visual.transformer.resblocks, start=1):
        x = x + plain_attention(block.attn, block.ln_1(x))
        x = x + block.mlp(block.ln_2(x))
        if number in encoder.layers:
            stages.append(x[:, 1:])
    return visual.ln_post(x)[:, 0] @ visual.proj, stages


def plain_attention(attention: torch.nn.MultiheadAttention, x: Tensor) -> Tensor:
    _, tokens, width = x.shape
    qkv = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = qkv.view(1, tokens, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-1)
    return attention.out_proj((weights @ v).transpose(1, 2).reshape(1, tokens, width))


def upsampled(tokens: Tensor, size: int) -> Tensor:
    """Values (B, N, C) of the patches as images (B, C, size, size)."""
    side = round(tokens.shape[1] ** 0.5)
    grid = tokens.transpose(1, 2).unflatten(2, (side, side))
    return F.interpolate(grid, size=(size, size), mode="bilinear", align_corners=True)


if __name__ == "__main__":
    main()
