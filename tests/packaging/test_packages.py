"""The three folders ipucc/, passes/ and runtime/ are one package, in a checkout and in a wheel."""

import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def packages_in_tree() -> list[str]:
    """Dotted names of the folders that hold an __init__.py, under the name they install as. Links are not
    entered."""
    return sorted(
        ".".join([name, *init.parent.relative_to(ROOT / folder).parts])
        for name, folder in SETUPTOOLS["package-dir"].items()
        for init in (ROOT / folder).rglob("__init__.py")
    )


def test_the_package_list_is_the_tree():
    assert sorted(SETUPTOOLS["packages"]) == packages_in_tree()


@pytest.mark.parametrize("folder", ["ipucc", "passes", "runtime"])
def test_no_module_lies_in_a_folder_without_init(folder):
    stray = [
        path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.py") if not (path.parent / "__init__.py").exists()
    ]
    assert not stray, "a wheel would not have these"


@pytest.mark.parametrize("name", ["passes", "runtime"])
def test_the_links_are_committed_as_links(name):
    """As plain folders they would be second copies; as files nothing could be imported in a checkout."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    entry = subprocess.run(
        ["git", "ls-files", "--stage", f"ipucc/{name}"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert entry.startswith("120000 "), entry
    assert (ROOT / "ipucc" / name).readlink() == Path("..") / name


def test_importing_everything_leaves_no_second_copy_of_a_module():
    """A bare `import passes` works in a checkout by accident, and gives every class twice."""
    code = (
        "import importlib, pkgutil, sys, ipucc\n"
        "for module in pkgutil.walk_packages(ipucc.__path__, 'ipucc.'):\n"
        "    if not module.name.endswith('.__main__'):\n"
        "        importlib.import_module(module.name)\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('passes', 'runtime')])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_machine_files_are_package_data():
    names = {entry.name for entry in resources.files("ipucc.target").iterdir()}
    assert {"gc2.toml", "gc200.toml", "bow.toml", "c600.toml"} <= names
    assert resources.files("ipucc").joinpath("py.typed").is_file()
