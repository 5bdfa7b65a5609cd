"""The source distribution builds a wheel, which works on its own."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from processes import run

ROOT = Path(__file__).resolve().parent.parent

TRY = ROOT / "tests" / "support" / "installed_package.py"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A wheel, built from an unpacked source distribution, as `python -m build` does; without CUDA, for its time."""
    dist = tmp_path_factory.mktemp("dist")
    without_cuda = {**os.environ, "SCVAE_FAST_CUDA": "0"}
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), str(ROOT), env=without_cuda)
    return dist


@pytest.mark.compiles
def test_source_distribution_holds_what_the_build_needs(built):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert {"setup.py", "pyproject.toml", "CMakeLists.txt", "LICENSE", "csrc/bindings.cpp"} <= names
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.*")} <= names


def test_wheel_holds_the_package_and_nothing_else(built):
    (archive,) = built.glob("*.whl")
    with zipfile.ZipFile(archive) as wheel:
        names = wheel.namelist()
        (metadata,) = [wheel.read(name).decode() for name in names if name.endswith("METADATA")]
    assert {name.split("/")[0] for name in names} == {"scvae_fast", names[-1].split("/")[0]}
    assert "scvae_fast/py.typed" in names
    shipped = [name.rpartition("/")[2] for name in names if name.startswith("scvae_fast/models/pretrained/pictures64/")]
    assert sorted(shipped) == ["README.md", "config.json", "model.safetensors", "training.json"]
    assert not [name for name in names if name.endswith((".png", ".jpg"))]  # nor the pictures that it was trained on
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra" not in line]
    assert sorted(required) == ["Requires-Dist: numpy", "Requires-Dist: torch>=2.10"]


@pytest.mark.compiles
def test_wheel_works_where_it_is_installed(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), str(wheel))
    printed = run(sys.executable, str(TRY), cwd=tmp_path, env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"})
    assert " works, " in printed


def test_build_refuses_an_unknown_cuda_setting(tmp_path):
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--build-temp", str(tmp_path), "--build-lib", str(tmp_path)],
        cwd=ROOT,
        env={"SCVAE_FAST_CUDA": "maybe", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "SCVAE_FAST_CUDA must be 0, 1 or auto, got 'maybe'" in done.stderr


def test_citation_and_workflow_agree_with_the_project():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert f'version = "{citation["version"]}"' in project
    assert f'license = "{citation["license"]}"' in project
    assert re.findall(r'"cp3(\d+)-\*"', project) == re.findall(r"Python :: 3\.(\d+)", project)
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]
    commands = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    assert ".ci/run" in commands["tests"]
    assert any("cibuildwheel" in command for command in commands["wheels"])
    assert len(jobs["wheels"]["strategy"]["matrix"]["runner"]) == 3
