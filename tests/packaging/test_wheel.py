"""A wheel, built without a network and run where there is no checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("onnx", "onnx_ir", "ortools", "numba", "networkx", "numpy")

needs_cli = pytest.mark.skipif(not (ROOT / "ipucc" / "cli" / "main.py").exists(), reason="there is no command line yet")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    if int(metadata.version("setuptools").split(".")[0]) < 77:
        pytest.skip("building offline needs setuptools 77 or newer in the environment")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("ipucc", "passes", "runtime"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(source)], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """An environment that has the wheel and nothing of the checkout; the dependencies are borrowed from here."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    site = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    )
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", f"--python={python}"]
    install = ["install", "--quiet", "--no-index", "--no-deps", str(wheel)]
    subprocess.run([*pip, *install], check=True)
    # A .pth line that is a path is appended behind the environment's own folder; the .pth files in there, such as
    # the one of the editable checkout, are not read.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def run(environment: Path, *command: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(
        [str(environment / "bin" / command[0]), *command[1:]],
        cwd=environment,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_wheel_holds_every_module_once(wheel):
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    tree = {
        str(Path(prefix) / path.relative_to(ROOT / folder))
        for folder, prefix in (("ipucc", "ipucc"), ("passes", "ipucc/passes"), ("runtime", "ipucc/runtime"))
        for path in (ROOT / folder).rglob("*.py")
        if not any(parent.is_symlink() for parent in path.parents)
    }
    assert len(names) == len(set(names))
    assert {name for name in names if name.endswith(".py")} == tree
    assert {name for name in names if name.endswith(".toml")} == {
        f"ipucc/target/{name}.toml" for name in ("bow", "c600", "gc2", "gc200")
    }


def test_the_installed_package_is_the_wheels(environment):
    code = (
        "import ipucc, ipucc.passes, ipucc.runtime, ipucc.target as t; print(ipucc.__file__, t.load_target('bow').name)"
    )
    done = run(environment, "python", "-c", code)
    assert done.returncode == 0, done.stderr
    file, name = done.stdout.split()
    assert Path(file).is_relative_to(environment)
    assert name == "bow"


@needs_cli
def test_the_command_works_from_another_folder(environment):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    done = run(environment, "ipucc", "--version")
    assert done.returncode == 0, done.stderr
    assert version in done.stdout


@needs_cli
@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_loads_no_heavy_library(arguments):
    """Start-up is most of what `ipucc --help` costs."""
    code = (
        "import sys\nfrom ipucc.cli.main import main\n"
        f"sys.argv = ['ipucc', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        f"print('LOADED', sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED []"
