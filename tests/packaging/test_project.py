"""What the project promises about itself: its documents agree with its code, its code keeps the rules."""

from __future__ import annotations

import ast
import builtins
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import piaa_sdk
from piaa_sdk import errors
from piaa_sdk.doctor import _EXTRAS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
SOURCE_FOLDERS = ("piaa_sdk", "training", "export", "benchmarks")
MAX_FUNCTION_LINES = 60

READING_ONLY = tuple(f"piaa_sdk/{name}" for name in ("images", "pipeline", "backbone", "ratings"))
"""The modules of the SDK that are given the paths of people's photos and ratings."""

METHODS_THAT_CHANGE_FILES = frozenset(
    {"chmod", "hardlink_to", "rename", "rmdir", "symlink_to", "touch", "unlink", "write_bytes", "write_text"}
)
FUNCTIONS_THAT_CHANGE_FILES = re.compile(
    r"(os|shutil)\.(chmod|chown|copy|link|mk|move|remove|rename|replace|rm|symlink|truncate|unlink|utime)\w*"
)

RUNS_FOREIGN_CODE = frozenset({"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"})


@cache
def project() -> dict[str, Any]:
    """The [project] table of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@cache
def sources() -> tuple[tuple[str, ast.Module], ...]:
    """Every module of the project and its syntax tree."""
    paths = [path for folder in SOURCE_FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return tuple((path.relative_to(ROOT).as_posix(), ast.parse(path.read_bytes())) for path in paths)


def imports(tree: ast.Module) -> set[str]:
    """The top-level names of all modules that are imported anywhere in a module."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.partition(".")[0])
    return found


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a module with its dotted name, such as ``torch.load`` or ``path.unlink``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keyword(call: ast.Call, name: str) -> object:
    """The constant given for a keyword of a call, None if it is not given or not constant."""
    for given in call.keywords:
        if given.arg == name and isinstance(given.value, ast.Constant):
            return given.value.value
    return None


def unsafe_loads(tree: ast.Module) -> list[str]:
    """What a module does that could run code hidden in a file."""
    found = sorted(imports(tree) & RUNS_FOREIGN_CODE)
    for name, call in calls(tree):
        unsafe = (
            name in {"eval", "exec", "yaml.load", "torch.hub.load"}
            or (name == "torch.load" and keyword(call, "weights_only") is not True)
            or (name in {"np.load", "numpy.load"} and keyword(call, "allow_pickle") is True)
        )
        if unsafe:
            found.append(f"{name} on line {call.lineno}")
    return found


def file_changes(tree: ast.Module) -> list[str]:
    """What a module does that could change, move or remove a file."""
    return [f"{name} on line {call.lineno}" for name, call in calls(tree) if _changes_a_file(name, call)]


def _changes_a_file(name: str, call: ast.Call) -> bool:
    method = name.rpartition(".")[2]
    if method == "open":
        given = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
        return any(
            isinstance(mode, str) and re.fullmatch(r"[rwaxbt+]*[wax+][rwaxbt+]*", mode)
            for mode in [*given, keyword(call, "mode")]
        )
    if method == "replace" and len(call.args) == 1 and not call.keywords:
        return True  # of a path; that of a text takes two arguments
    if method in METHODS_THAT_CHANGE_FILES:
        return True
    return FUNCTIONS_THAT_CHANGE_FILES.fullmatch(name) is not None


def read_document(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["CHANGELOG.md", "CITATION.cff"])
def test_version_is_the_same_everywhere(name: str) -> None:
    pattern = {"CHANGELOG.md": r"^## \[([^\]]+)\]", "CITATION.cff": r"^version: (\S+)"}[name]
    found = re.search(pattern, read_document(name), re.MULTILINE)
    assert found is not None
    assert found.group(1) == piaa_sdk.__version__


def test_nothing_can_run_code_hidden_in_a_file() -> None:
    offenders = {path: unsafe for path, tree in sources() if (unsafe := unsafe_loads(tree))}
    assert offenders == {}


@pytest.mark.parametrize(
    "statement",
    [
        "from joblib import load",
        "torch.load(path) or torch.load(path, weights_only=True)",
        "eval(text)",
        "np.load(f, allow_pickle=True)",
    ],
)
def test_check_of_loading_can_fail(statement: str) -> None:
    assert unsafe_loads(ast.parse(statement))
    assert not unsafe_loads(ast.parse("torch.load(path, map_location='cpu', weights_only=True); np.load(f)"))


def test_modules_that_meet_photos_change_no_file() -> None:
    """Nothing between a photo's path and its score can write, move or remove a file."""
    meeting = [(path, tree) for path, tree in sources() if path.startswith(READING_ONLY)]
    assert len(meeting) >= len(READING_ONLY)
    offenders = {path: found for path, tree in meeting if (found := file_changes(tree))}
    assert offenders == {}


@pytest.mark.parametrize(
    "statement", ["p.unlink()", "open(p, 'wb')", "p.open(mode='r+')", "shutil.copyfile(a, b)"]
)
def test_check_of_file_changes_can_fail(statement: str) -> None:
    assert file_changes(ast.parse(statement))
    assert not file_changes(
        ast.parse("path.open('rb'); name.replace('a', 'b'); open(p, encoding='utf-8'); a.copy()")
    )


def test_functions_fit_on_a_screen() -> None:
    long = {
        f"{path}: {node.name}": lines
        for path, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    }
    assert long == {}


def test_every_import_of_the_sdk_is_declared() -> None:
    """Whatever the wheel imports comes with it or with one of its extras, not by way of another package."""
    users_extras = {
        name: texts for name, texts in project()["optional-dependencies"].items() if name != "dev"
    }
    texts = [*project()["dependencies"], *(text for texts in users_extras.values() for text in texts)]
    declared = {canonicalize_name(Requirement(text).name) for text in texts}
    providers = importlib.metadata.packages_distributions()
    undeclared = {
        f"{path}: {name}"
        for path, tree in sources()
        if path.startswith("piaa_sdk/")
        for name in imports(tree) - set(sys.stdlib_module_names) - {"piaa_sdk"}
        if not declared & {canonicalize_name(provider) for provider in providers.get(name, [name])}
    }
    assert undeclared == set()


def test_every_extra_is_told_of() -> None:
    """The table of the README has all of them, ``piaa doctor`` those that change what a user can do."""
    extras = set(project()["optional-dependencies"])
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[a-z`, ]+`) \| ", text, re.MULTILINE)
    assert extras <= {name for row in rows for name in re.findall(r"[a-z]+", row)}
    assert set(_EXTRAS) == extras - {"cuda", "dev", "train"}


def test_every_extra_named_in_an_error_exists() -> None:
    """The pip command that a person is given must be one that helps."""
    named = {
        argument.value
        for _, tree in sources()
        for name, call in calls(tree)
        if name.rpartition(".")[2] == "MissingDependencyError"
        for argument in [*call.args[1:], *(given.value for given in call.keywords if given.arg == "extra")]
        if isinstance(argument, ast.Constant)
    }
    assert named
    assert named <= set(project()["optional-dependencies"])


def test_error_tree_is_drawn_as_it_is() -> None:
    """The tree in the docstring names every error there is, and beside them only Python's own."""
    drawn = set(re.findall(r"\b[A-Z]\w+(?:Error|Warning)\b", errors.__doc__ or ""))
    real = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert real <= drawn
    assert drawn - real <= set(dir(builtins))


def test_import_contract_holds() -> None:
    """Imports point down only, and export -> training -> piaa_sdk is the one direction."""
    completed = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr


@pytest.mark.parametrize(
    "document",
    ["README.md", "CONTRIBUTING.md", "benchmarks/README.md", "docs/performance.md", "docs/scale.md"],
)
def test_links_between_documents_lead_somewhere(document: str) -> None:
    text = read_document(document)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith(("http", "#"))]
    folder = (ROOT / document).parent
    missing = [link for link in links if not (folder / link.partition("#")[0]).exists()]
    assert missing == []
