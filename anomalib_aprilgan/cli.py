# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The command line ``aprilgan``. Heavy imports are made by the subcommands that need them."""

from __future__ import annotations

import signal
import sys
from collections import UserDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from jsonargparse import auto_cli
from jsonargparse.typing import register_type

WIDTH = 200  # columns of a table that is written to a pipe


class Plain(UserDict[str, Any]):
    """A part of a configuration file that jsonargparse leaves as it is, without making objects of class paths."""


register_type(Plain, serializer=dict, deserializer=Plain)


def compare(
    models: dict[str, Plain],
    datasets: dict[str, Plain],
    output: Path,
    shots: list[int],
    seeds: list[int],
    mask_size: int,
    pictures: int = 3,
    trainer: dict[str, Any] | None = None,
    backend: Literal["loky", "ray", "dask"] = "loky",
    n_jobs: int = 1,
    memory_limit: float | None = None,
) -> None:
    """Run models on data sets with the same reference images, and write results, tables and figures.

    Runs that are in the results already are not repeated, so a killed comparison resumes where it stopped. The exit
    code is 1 if a run failed.

    Args:
        models: By name: ``class_path``, ``init_args``, ``shots`` (the only ones it is run with), ``train`` (how to
            train the adapters of an AprilGan: ``data``, ``max_epochs``).
        datasets: By name: ``class_path``, ``init_args``, ``categories`` (default: all that are on disk).
        output: Folder of the results, tables and figures.
        shots: Numbers of reference images.
        seeds: For the draws of references.
        mask_size: Height and width in pixels to which the anomaly maps of all models are resized.
        pictures: Test images per category that are kept with their maps for figures.
        trainer: Arguments of Lightning's Trainer.
        backend: joblib's: processes of this machine, or a Ray or Dask cluster.
        n_jobs: Workers; -1: as many as there are cores, or workers of the cluster.
        memory_limit: GiB for maps and memory banks of the runs that all workers have at hand; default: half of what is
            free. With less, an AprilGan passes more often over the test images.

    Raises:
        SystemExit: If a run failed, or with a message if the configuration is wrong.

    Example:
        ``aprilgan compare --config compare.yaml`` with this ``compare.yaml`` needs no download::

            models:
              AprilGan:
                class_path: anomalib_aprilgan.AprilGan
                init_args: {backbone: demo, pretrained: demo, image_size: 224}
                train: # the adapters, on other categories
                  data:
                    class_path: anomalib_aprilgan.AuxiliaryDataModule
                    init_args:
                      auxiliary: {class_path: anomalib_aprilgan.DemoDataModule}
                      categories: [gravel]
                  max_epochs: 1
              SPADE:
                class_path: anomalib_aprilgan.comparison.spade.Spade
                init_args: {backbone: resnet18, pre_trained: false} # random weights
            datasets:
              demo: {class_path: anomalib_aprilgan.DemoDataModule, categories: [coins]}
            output: results/example
            shots: [0, 2]
            seeds: [0]
            mask_size: 224
    """
    from anomalib_aprilgan.comparison.execution import run_grid  # noqa: PLC0415
    from anomalib_aprilgan.comparison.grid import Grid, read_datasets, read_models  # noqa: PLC0415
    from anomalib_aprilgan.comparison.results import read_results  # noqa: PLC0415

    # Lightning swallows this signal while it predicts, unless somebody handles it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with _clear_errors():
        grid = Grid(read_models(models), read_datasets(datasets), shots, seeds, mask_size, pictures, trainer or {})
        failed = run_grid(grid, output, backend, n_jobs, memory_limit)
        if (read_results(output).status == "ok").any():
            table(output)
            figure(output)
    if failed:
        print(f"{len(failed)} runs failed; the next start tries them again.", file=sys.stderr)
        sys.exit(1)


def table(
    output: Path,
    kind: Literal["all", "summary", "vand", "cost", "categories"] = "summary",
    format: Literal["terminal", "md", "tex", "csv"] = "terminal",
) -> None:
    """Print tables of a comparison, and write all tables to ``tables.md``, ``tables.tex`` and ``tables.csv``.

    Args:
        output: Folder of the comparison.
        kind: What to print: means over categories, the VAND leader boards, time and memory, or each category.
        format: How to print it.

    Raises:
        SystemExit: With a message if there are no results that can be read.
    """
    from rich.console import Console  # noqa: PLC0415

    from anomalib_aprilgan.comparison import render, tables  # noqa: PLC0415
    from anomalib_aprilgan.comparison.results import read_results  # noqa: PLC0415

    with _clear_errors():
        results = read_results(output)
        render.write(tables.all_tables(results), output)
        chosen = tables.KINDS[kind](results)
    if format == "terminal":
        # A pipe has no width: Rich would take 80 columns.
        render.show(chosen, Console(width=None if sys.stdout.isatty() else WIDTH))
    else:
        print(render.FORMATS[format](chosen), end="")


def figure(
    output: Path,
    models: list[str] | None = None,
    shots: list[int] | None = None,
    metrics: list[str] | None = None,
) -> None:
    """Draw the figures of a comparison as PNG and PDF into its folder ``figures``.

    Args:
        output: Folder of the comparison.
        models: Those to draw; default: all.
        shots: Numbers of references to draw; default: all.
        metrics: Those to draw against the number of references; default: image_AUROC, pixel_F1Max and pixel_PRO.

    Raises:
        SystemExit: With a message if there are no results that can be read, or a name is unknown.
    """
    from anomalib_aprilgan.comparison import figures  # noqa: PLC0415
    from anomalib_aprilgan.comparison.results import read_results  # noqa: PLC0415

    with _clear_errors():
        results = read_results(output)
        drawn = {
            **figures.shots_figures(results, metrics or figures.DEFAULT_METRICS, models, shots),
            **figures.map_figures(results, output, models, shots),
        }
        paths = figures.save(drawn, output)
    print(f"{len(paths)} files in {output / 'figures'}")


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
    with _clear_errors():
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
        decisions_limit: Images that one may call normal and the other abnormal.
        precision: Of OpenVINO; on processors with bfloat16 its own default is bf16.
        threads: Of both.

    Raises:
        SystemExit: If a limit is exceeded, or with a message if a file is missing or of another kind.
    """
    from anomalib_aprilgan import AprilGan  # noqa: PLC0415
    from anomalib_aprilgan.components.export_validation import Limits, compare_export, images_of  # noqa: PLC0415

    with _clear_errors():
        load = partial(AprilGan.load_from_checkpoint, checkpoint, visualizer=False)
        result = compare_export(export, images_of(data), load, precision, threads)
    print(*result.lines(), sep="\n")
    faults = result.faults(Limits(score_limit, map_limit, decisions_limit))
    print(f"{export} differs from its model: {'; '.join(faults)}" if faults else f"{export} agrees with its model")
    if faults:
        sys.exit(1)


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Exit with the message of an error about the input instead of a traceback."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"aprilgan: error: {error}")


def main() -> None:
    """Run the subcommand that the command line names."""
    auto_cli([compare, table, figure, prompts, demo, validate], as_positional=False)
