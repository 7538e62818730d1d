"""What an import costs, and what the package shows to the world."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import piaa_sdk
from piaa_sdk import errors

ROOT = Path(piaa_sdk.__file__).parents[1]

HEAVY = frozenset(
    {
        "PIL",
        "huggingface_hub",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "pillow_heif",
        "pyarrow",
        "rawpy",
        "ray",
        "scipy",
        "skimage",
        "timm",
        "torch",
        "torchvision",
        "typer",
    }
)
"""Top-level modules that are needed by one command or by none: `import piaa_sdk` must not pay for them."""

TRAINING_ONLY = frozenset({"onnx", "onnxscript", "scipy", "skimage", "timm", "torch", "torchvision"})
"""Scoring must work, and be as quick, where these are installed as where they are not."""


def loaded_by(statements: str, home: Path) -> set[str]:
    """Run statements in a fresh interpreter and return the top-level modules it then holds."""
    report = "import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    completed = subprocess.run(
        [sys.executable, "-c", f"{statements}\n{report}"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PIAA_HOME": str(home)},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert completed.returncode == 0, completed.stderr
    return set(json.loads(completed.stdout.splitlines()[-1]))


def run_command(*arguments: str) -> str:
    """Write the statements that run one command of the program to its end."""
    return (
        "import sys\n"
        "from piaa_sdk.cli import main\n"
        f"sys.argv = {['piaa', *arguments]!r}\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
    )


def test_import_loads_nothing_heavy(tmp_path: Path) -> None:
    assert loaded_by("import piaa_sdk", tmp_path) & HEAVY == set()


def test_import_check_can_fail(tmp_path: Path) -> None:
    """The test above would see a heavy module if there were one."""
    assert loaded_by("import piaa_sdk, PIL", tmp_path) & HEAVY == {"PIL"}


@pytest.mark.parametrize("arguments", [("--help",), ("score", "--help"), ("--version",)], ids=" ".join)
def test_help_loads_no_numbers(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """Help is answered at once: no numpy, no picture library, no inference runtime."""
    loaded = loaded_by(run_command(*arguments), tmp_path)
    assert loaded & ((HEAVY - {"typer"}) | {"numpy"}) == set()
    assert "typer" in loaded


def test_scoring_loads_no_training_library(tmp_path: Path) -> None:
    photos = Path(piaa_sdk.__file__).parent / "default_model" / "golden"
    output = tmp_path / "scores.jsonl"
    command = run_command("score", str(photos), "--format", "jsonl", "--output", str(output))
    loaded = loaded_by(command, tmp_path)
    assert output.read_text(encoding="utf-8").count("\n") >= 1
    assert "onnxruntime" in loaded
    assert loaded & TRAINING_ONLY == set()


def test_public_names_are_sorted_and_complete() -> None:
    """What can be reached without an underscore is what is promised, and nothing else."""
    promised = list(piaa_sdk.__all__)
    assert promised == sorted(promised)
    assert len(promised) == len(set(promised))
    reachable = {
        name
        for name in dir(piaa_sdk)
        if not isinstance(getattr(piaa_sdk, name), ModuleType)
        and (not name.startswith("_") or name == "__version__")
        and name not in {"annotations", "TYPE_CHECKING"}
    }
    assert reachable == set(promised)


def test_every_error_is_public() -> None:
    """Whoever can meet an error can name it in an except clause."""
    raised = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, (errors.PiaaError, errors.PiaaWarning))
    }
    assert raised
    assert raised <= set(piaa_sdk.__all__)


def test_star_import_gives_what_is_promised(tmp_path: Path) -> None:
    """Names that are loaded on first use must be found by a star import too."""
    statements = (
        "import piaa_sdk\nspace = {}\nexec('from piaa_sdk import *', space)\n"
        "missing = set(piaa_sdk.__all__) - set(space)\nassert not missing, missing"
    )
    assert "piaa_sdk" in loaded_by(statements, tmp_path)
