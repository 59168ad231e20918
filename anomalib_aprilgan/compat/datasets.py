# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""What anomalib 2.7.0 makes of hidden files, broken links, masks that do not fit, and of no validation data."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import anomalib.data.datasets.image
from anomalib.data import AnomalibDataModule
from anomalib.data.errors import MisMatchError
from anomalib.data.utils import ValSplitMode

PACKAGE = anomalib.data.datasets.image.__name__
MODULES = [module for name, module in sys.modules.items() if name.startswith(f"{PACKAGE}.")]
VALIDATE = {module: module.validate_path for module in MODULES if hasattr(module, "validate_path")}
PAIRING = {f"make_{name}_dataset" for name in ("btech", "mpdd", "mvtec_ad", "vad")}  # pair by number
MAKERS = {(module, name): maker for module in MODULES for name, maker in vars(module).items() if name in PAIRING}
NAMED = 3


class VisibleFiles(type(Path())):  # type: ignore[misc]  # before Python 3.12 only the class of the platform has children
    """A folder that is listed without some of its files."""

    keep: Callable[[Path, Path], bool]

    def glob(self, *args: Any, **kwargs: Any) -> Iterator[Path]:
        """As of Path, without the files that are not kept."""
        return (path for path in super().glob(*args, **kwargs) if self.keep(Path(path), Path(self)))


def use_visible_files(keep: Callable[[Path, Path], bool]) -> None:
    """Have anomalib's data sets list only what is kept, and say which images and masks do not belong together.

    They take hidden files, such as Jupyter's copies in ``.ipynb_checkpoints``, for images and masks. If then, or
    because a mask is missing, their numbers differ, the error is pandas' "Must have equal len keys".

    Args:
        keep: Whether a file in or below a folder counts: takes both; may raise ValueError.
    """
    kind = type("Kept", (VisibleFiles,), {"keep": staticmethod(keep)})
    for module, validate in VALIDATE.items():
        vars(module)["validate_path"] = _then(validate, kind)
    for (module, name), maker in MAKERS.items():
        vars(module)[name] = _explained(maker)


def _then(validate: Callable[..., Path], kind: Callable[[Path], Path]) -> Callable[..., Path]:
    return lambda *args, **kwargs: kind(validate(*args, **kwargs))


def _explained(maker: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(maker)
    def make(root: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return maker(root, *args, **kwargs)
        except (ValueError, TypeError, MisMatchError) as error:
            if isinstance(error, ValueError) and "equal len keys" not in str(error):
                raise
            msg = (
                f"Images and masks in {str(root)!r} do not belong together: every image of a defect needs a mask of "
                f"its name. {_unpaired(Path(root))}"
            )
            raise ValueError(msg.strip()) from error

    return make


def _unpaired(root: Path) -> str:
    """Some images of defects and masks without the other, in the layout of MVTec AD."""
    images = Counter(_names(root / "test"))
    masks = Counter((label, name.removesuffix("_mask")) for label, name in _names(root / "ground_truth"))
    parts = []
    for what, alone in (("without a mask", images - masks), ("without an image", masks - images)):
        names = ["/".join(key) for key in sorted(alone)]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        parts += [f"{what.capitalize()}: {', '.join(names[:NAMED])}{more}."] if names else []
    return " ".join(parts)


def _names(folder: Path) -> Iterator[tuple[str, str]]:
    """Folder and name without suffix of each file in the folders of defects; deeper ones are not of this layout."""
    for path in folder.rglob("*"):
        label = str(path.parent.relative_to(folder))
        if path.is_file() and label not in {"good", "."} and not any(part[0] == "." for part in path.parts[-2:]):
            yield label, path.stem


def allow_no_validation(datamodule: object) -> None:
    """Have a data module of anomalib's with ``val_split_mode`` "none" validate on nothing.

    It makes no ``val_data`` then, which its ``val_dataloader`` reads all the same. One that has a ``val_dataloader``
    of its own keeps it.

    Args:
        datamodule: That is set up; any other object is left as it is.
    """
    if not isinstance(datamodule, AnomalibDataModule) or hasattr(datamodule, "val_data"):
        return
    inherited = type(datamodule).val_dataloader is AnomalibDataModule.val_dataloader
    if inherited and datamodule.val_split_mode == ValSplitMode.NONE:
        vars(datamodule)["val_dataloader"] = _no_batches


def _no_batches() -> list[Any]:
    return []
