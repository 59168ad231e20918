# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""One page with the images of a run that have the highest scores."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

SHEET = "contact_sheet.jpg"
MOST, COLUMNS = 60, 6
SIDE, LINE, GAP = 200, 18, 8  # pixels


@dataclass(frozen=True)
class Entry:
    """An image of the sheet, with what stands below it."""

    score: float
    name: str
    text: str
    picture: Image.Image


class ContactSheet:
    """Keeps small copies of the highest-scoring images of a run, and no others."""

    def __init__(self) -> None:
        self.n_images = 0
        self.entries: list[Entry] = []

    def add(self, score: float, path: Path, text: str, picture: Image.Image) -> None:
        """Keep the picture if its score is among the highest.

        Args:
            score: Of the image.
            path: Of its file.
            text: To be shown below it.
            picture: To be shown, of any size.
        """
        self.n_images += 1
        if len(self.entries) == MOST and score <= self.entries[-1].score:
            return
        small = picture.copy()
        small.thumbnail((SIDE, SIDE))
        self._keep([*self.entries, Entry(score, f"{path.parent.name}/{path.name}", text, small)])

    def _keep(self, entries: list[Entry]) -> None:
        self.entries = sorted(entries, key=attrgetter("score"), reverse=True)[:MOST]

    def gather(self) -> None:
        """Add what the other processes of the run have."""
        parts: list[ContactSheet] = [self] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, self)
        self.n_images = sum(part.n_images for part in parts)
        self._keep([entry for part in parts for entry in part.entries])

    def draw(self) -> Image.Image:
        """The sheet, the highest score first."""
        columns, rows = min(COLUMNS, len(self.entries)), -(-len(self.entries) // COLUMNS)
        width, height = SIDE + GAP, SIDE + 2 * LINE + GAP
        sheet = Image.new("RGB", (max(columns * width, 2 * SIDE) + GAP, rows * height + 2 * LINE), "white")
        which = "All" if self.n_images <= MOST else f"The {MOST} highest of"
        _write(sheet, (GAP, GAP), f"{which} {self.n_images} images, sorted by score")
        for number, entry in enumerate(self.entries):
            left, top = GAP + number % COLUMNS * width, 2 * LINE + number // COLUMNS * height
            sheet.paste(entry.picture, (left, top + SIDE - entry.picture.height))
            _write(sheet, (left, top + SIDE + 2), entry.name[-28:])
            _write(sheet, (left, top + SIDE + LINE), entry.text)
        return sheet


def _write(sheet: Image.Image, position: tuple[int, int], text: str) -> None:
    ImageDraw.Draw(sheet).text(position, text, "black", ImageFont.load_default(13))
