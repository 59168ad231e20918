# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0
"""The start-up hook in interpreters of their own, with a small stand-in for anomalib that is imported in no time.

tests/integration/test_packaging.py has the installed hook meet the real anomalib.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

STARTUP = ROOT / "startup"

STAND_IN = {
    "anomalib/__init__.py": "",
    "anomalib/models/__init__.py": (
        "from anomalib.models import image\nfrom anomalib.models.components import AnomalibModule\n"
        "executions, ALLOWED_MODULES = [], {'anomalib.models'}\n"
    ),
    "anomalib/models/image.py": "",
    "anomalib/models/components.py": "class AnomalibModule: pass\n",
    "anomalib_aprilgan/__init__.py": "",
    "anomalib_aprilgan/checkpoint.py": "import anomalib.models\nKEY = 'april_gan'\n",
    "anomalib_aprilgan/lightning_model.py": (
        "from anomalib.models.components import AnomalibModule\nfrom anomalib_aprilgan.checkpoint import KEY\n"
        "class AprilGan(AnomalibModule): pass\n"
    ),
}
BREAKAGES = ["raise RuntimeError('no GPU')", "import nowhere", "def broken(:"]
CHECK = """
import anomalib.models
from anomalib.models import AprilGan
import anomalib_aprilgan.lightning_model
assert AprilGan is anomalib.models.AprilGan is anomalib.models.image.AprilGan
assert AprilGan is anomalib_aprilgan.lightning_model.AprilGan
assert {"anomalib_aprilgan", "anomalib_aprilgan.lightning_model"} <= anomalib.models.ALLOWED_MODULES
assert anomalib.models.AnomalibModule.__subclasses__() == [AprilGan]
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with the stand-in for anomalib, our plugin.py, and a model class where the real one is."""
    for name, content in STAND_IN.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    shutil.copy(ROOT / "anomalib_aprilgan" / "plugin.py", tmp_path / "anomalib_aprilgan")
    return tmp_path


def python(site: Path, code: str, before: str = "", **environment: str) -> subprocess.CompletedProcess:
    """Run code before and after the line of the .pth file, without the site-packages of this environment."""
    script = site / "script.py"
    script.write_text(before + (STARTUP / "anomalib_aprilgan.pth").read_text() + code)
    paths = os.pathsep.join([str(site), str(STARTUP)])
    variables = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", **environment}
    command = [sys.executable, "-S", script]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "first",
    [
        "import anomalib.models",
        "import anomalib.models.components",
        "import anomalib_aprilgan.lightning_model",
        "import anomalib_aprilgan.checkpoint",
        "import anomalib_aprilgan.plugin",
        "import anomalib_aprilgan_hook; anomalib_aprilgan_hook.install()",
        "import importlib, anomalib.models; importlib.reload(anomalib.models)",
        "import sys, anomalib.models; del sys.modules['anomalib.models']",
        "import importlib, anomalib_aprilgan_hook; importlib.reload(anomalib_aprilgan_hook)",
        "import anomalib.models, anomalib_aprilgan.plugin as plugin; plugin.register(anomalib.models)",
    ],
)
def test_model_is_registered_whatever_is_imported_first(site, first):
    result = python(site, f"{first}\n{CHECK}")
    assert (result.stdout, result.stderr) == ("", "")


def test_hook_is_installed_once(site):
    code = """
import importlib, sys, anomalib_aprilgan_hook
importlib.reload(anomalib_aprilgan_hook).install()
print(sum(type(finder).__name__ == "ModelsFinder" for finder in sys.meta_path))
"""
    assert python(site, code).stdout == "1\n"


def test_threads_that_import_from_both_ends(site):
    slow = "import time\ntime.sleep(0.1)\n"
    for name in ("anomalib/models/__init__.py", "anomalib_aprilgan/lightning_model.py"):
        (site / name).write_text(slow + STAND_IN[name])
    code = f"""
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
with ThreadPoolExecutor(8) as pool:
    list(pool.map(import_module, ["anomalib.models", "anomalib_aprilgan.lightning_model"] * 4))
{CHECK}
"""
    result = python(site, code)
    assert (result.stdout, result.stderr) == ("", "")


def test_attribute_of_a_circular_import_leaves_other_attributes_alone(site):
    models = site / "anomalib/models/__init__.py"
    models.write_text(models.read_text() + "def __getattr__(name):\n    return f'lazy {name}'\n")
    code = f"import anomalib_aprilgan.lightning_model\n{CHECK}\nprint(anomalib.models.Other)"
    assert python(site, code).stdout == "lazy Other\n"

    models.write_text(STAND_IN["anomalib/models/__init__.py"])
    code = "import anomalib_aprilgan.lightning_model, anomalib.models\nanomalib.models.Other"
    assert "AttributeError: module 'anomalib.models' has no attribute 'Other'" in python(site, code).stderr


def test_environment_variable_switches_it_off(site):
    code = (
        "import anomalib.models, sys\nprint(hasattr(anomalib.models, 'AprilGan'), 'anomalib_aprilgan' in sys.modules)"
    )
    assert python(site, code).stdout == "True True\n"
    assert python(site, code, ANOMALIB_APRILGAN_NO_PLUGIN="1").stdout == "False False\n"


def test_start_imports_only_the_hook(site):
    before = "import os, sys\nbefore = set(sys.modules)\n"
    assert python(site, "print(*set(sys.modules) - before)", before).stdout == "anomalib_aprilgan_hook\n"


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_anomalib_works_and_the_reason_is_logged_when_the_model_fails(site, breakage):
    (site / "anomalib_aprilgan/lightning_model.py").write_text(breakage)
    result = python(site, "import anomalib.models\nprint(anomalib.models.executions)")
    assert result.stdout == "[]\n"
    assert result.stderr.startswith("anomalib will not find the model AprilGan: ")
    assert "ANOMALIB_APRILGAN_NO_PLUGIN=1 silences it" in result.stderr
    assert "Traceback" not in result.stderr


def test_anomalib_works_without_the_package(site):
    shutil.rmtree(site / "anomalib_aprilgan")
    result = python(site, "import anomalib.models\nprint(anomalib.models.executions)")
    assert result.stdout == "[]\n"
    assert "ModuleNotFoundError: No module named 'anomalib_aprilgan'" in result.stderr


def test_anomalib_works_with_a_finder_that_fails(site):
    code = """
import anomalib, sys
class FailsOnce:
    def find_spec(self, name, path=None, target=None):
        sys.meta_path.remove(self)
        raise RuntimeError("odd finder")
sys.meta_path.insert(1, FailsOnce())
import anomalib.models
"""
    result = python(site, code)
    assert result.returncode == 0, result.stderr
    assert "RuntimeError: odd finder" in result.stderr


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_start_is_silent_when_the_hook_is_broken(site, breakage):
    (site / "anomalib_aprilgan_hook.py").write_text(breakage)
    result = python(site, "print('started')")
    assert (result.stdout, result.stderr) == ("started\n", "")


@pytest.mark.parametrize("name", ["anomalib", "anomalib.models"])
def test_missing_anomalib_is_reported_as_always(site, name):
    shutil.rmtree(site / name.replace(".", "/"))
    result = python(site, "import anomalib.models")
    assert result.stderr.strip().endswith(f"ModuleNotFoundError: No module named '{name}'")
