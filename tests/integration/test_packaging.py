# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""What a built wheel holds, and what installing and uninstalling it does to an environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from anomalib_aprilgan import __version__
from conftest import ROOT

HOOK_FILES = {"anomalib_aprilgan.pth", "anomalib_aprilgan_hook.py"}


def run(command: list[str], **options: object) -> subprocess.CompletedProcess:
    """Run a command that has to succeed."""
    result = subprocess.run(command, check=False, capture_output=True, text=True, **options)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built out of the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT])
    assert (folder / f"anomalib_aprilgan-{__version__}.tar.gz").exists()
    return folder / f"anomalib_aprilgan-{__version__}-py3-none-any.whl"


class Environment:
    """A virtual environment that sees the packages of this one, but does not run its .pth files."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder)
        self.folder = folder
        self.python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        where = "import sysconfig; print(sysconfig.get_path('purelib'))"
        self.site_packages = Path(self.run("-c", where).stdout.strip())
        parents = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        (self.site_packages / "parents.pth").write_text("\n".join(sorted(parents)))

    def run(self, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, **variables}
        environment.pop("PYTHONPATH", None)
        command = [str(self.python), *map(str, arguments)]
        # Not here, where the interpreter would find the package without any installation.
        return run(command, cwd=self.folder, env=environment)

    def files(self) -> set[str]:
        return {path.name for path in self.site_packages.iterdir()}


@pytest.fixture(scope="module", params=["wheel", "editable"])
def environment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment in which the package is installed."""
    environment = Environment(tmp_path_factory.mktemp("environment"))
    target = [request.getfixturevalue("wheel")] if request.param == "wheel" else ["--editable", ROOT]
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed"]
    environment.run("-m", "pip", "install", *options, *target)
    return environment


def test_wheel_content(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry_points = archive.read(f"anomalib_aprilgan-{__version__}.dist-info/entry_points.txt").decode()
    package = {str(path.relative_to(ROOT).as_posix()) for path in (ROOT / "anomalib_aprilgan").rglob("*.py")}
    published = {f"anomalib_aprilgan/comparison/{name}.csv" for name in ("published", "vand2023")}
    clip = ("clip/demo_clip.json", "clip/demo_clip.safetensors", "clip/demo_adapters.pth")
    others = ("py.typed", "prompts.yaml", *clip, "comparison/report/page.html")
    data = {f"anomalib_aprilgan/{name}" for name in others}
    assert package | published | data | HOOK_FILES <= names
    assert {name.split("/")[0] for name in names} - HOOK_FILES == {
        "anomalib_aprilgan",
        f"anomalib_aprilgan-{__version__}.dist-info",
    }
    assert "[anomalib.models]\nAprilGan = anomalib_aprilgan:AprilGan" in entry_points
    assert "[console_scripts]\naprilgan = anomalib_aprilgan.cli:main" in entry_points


FIND = """
import json, sys
from anomalib.models import get_model, list_models
import anomalib.models

arguments = json.loads(sys.argv[1])
assert "april_gan" in list_models()
paths = ["", "anomalib.models.", "anomalib.models.image.", "anomalib_aprilgan.", "anomalib_aprilgan.lightning_model."]
models = [get_model({"class_path": f"{path}AprilGan", "init_args": arguments}) for path in paths]
models.append(get_model("april_gan", **arguments))
assert all(type(model) is anomalib.models.AprilGan for model in models)

from anomalib.cli import AnomalibCLI
AnomalibCLI(args=["test", "--model", "AprilGan", "--model.k_shot", "2", "--data", "MVTecAD", "--print_config"])
"""


@pytest.mark.slow
def test_anomalib_finds_the_model(environment, tiny_arguments):
    found = environment.run("-W", "ignore", "-c", FIND, json.dumps(tiny_arguments))
    assert "k_shot: 2" in found.stdout


START = """
import sys
print([name for name in ("anomalib_aprilgan_hook", "anomalib_aprilgan", "anomalib", "torch") if name in sys.modules])
print([type(finder).__name__ for finder in sys.meta_path if type(finder).__name__ == "ModelsFinder"])
"""


def test_start_imports_the_hook_alone(environment):
    started = environment.run("-c", START)
    assert (started.stdout, started.stderr) == ("['anomalib_aprilgan_hook']\n['ModelsFinder']\n", "")


def test_environment_variable_switches_the_hook_off(environment):
    assert environment.run("-c", START, ANOMALIB_APRILGAN_NO_PLUGIN="1").stdout.splitlines()[1] == "[]"


def test_uninstalling_leaves_nothing(environment):
    """The last test, because it takes the package away from the others."""
    assert environment.files() >= HOOK_FILES
    environment.run("-m", "pip", "uninstall", "--yes", "anomalib-aprilgan")
    assert not [name for name in environment.files() if "aprilgan" in name]
    assert environment.run("-c", START).stderr == ""
