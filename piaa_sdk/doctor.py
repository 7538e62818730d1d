"""Look at an installation: what works, what does not, and what to do about it. No network."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
import tempfile
import warnings
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from piaa_sdk import __version__, embedding_cache
from piaa_sdk.backbone import Backbone
from piaa_sdk.bundle import EMBEDDED_FOLDER, GOLDEN_NAME, ModelBundle
from piaa_sdk.devices import available_devices, cpu_count, import_runtime, installed_runtimes, repair_command
from piaa_sdk.errors import DeviceError, ModelError, OutputError, PiaaError, PiaaWarning, install_command
from piaa_sdk.folders import cache_folder, data_folder
from piaa_sdk.head import Prior
from piaa_sdk.images import load_image, printable, supported_formats
from piaa_sdk.profiles import ProfileStore
from piaa_sdk.terminal import count_of, size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from piaa_sdk.array_types import FloatArray

_REINSTALL = "pip install --force-reinstall --no-deps piaa-sdk"
_EXTRAS = {
    "photos": ("HEIC and RAW photos", ("pillow_heif", "rawpy")),
    "parquet": ("Parquet output", ("pyarrow",)),
    "remote": ("photos at s3://, gs:// and https://", ("aiohttp", "fsspec", "gcsfs", "s3fs")),
    "ray": ("piaa score --engine ray", ("ray", "pandas", "pyarrow")),
    "onnx": ("a person's scorer as one graph", ("onnx",)),
    "finetune": ("fine-tuning the whole network", ("torch", "torchvision", "timm", "onnx", "onnxscript")),
    "demo": ("photographs for piaa demo", ("skimage", "sklearn")),
}


class Status(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at and what was found.

    Attributes:
        name: What was looked at.
        status: Whether it works; a warning is about something that scoring can do without.
        detail: What was found, one line.
        next_step: What to do about it, where there is something to do.
    """

    name: str
    status: Status
    detail: str
    next_step: str | None = None


def examine() -> Iterator[Check]:
    """Go through the installation, in the order in which one thing needs the other."""
    yield _check_python()
    yield check_runtime(installed_runtimes())
    yield from check_model(EMBEDDED_FOLDER)
    try:
        profiles, cache = data_folder(), cache_folder()
    except OutputError as error:
        yield Check("own folders", Status.FAIL, str(error))
    else:
        yield check_folder("profiles folder", profiles)
        with contextlib.suppress(ModelError):  # which has been said
            yield from check_profiles(ProfileStore(), ModelBundle.load(EMBEDDED_FOLDER).bundle_revision)
        yield check_folder("cache folder", cache)
        yield _check_cache(embedding_cache.default_path())
    yield _check_formats()
    yield from _check_extras()


def check_lines(check: Check) -> list[str]:
    """Write a check out for reading: one line, and one more for the next step."""
    lines = [f"{check.status:<4}  {check.name:<15}  {check.detail}"]
    if check.next_step:
        lines.append(f"{'':23}next: {check.next_step}")
    return lines


def check_runtime(found: dict[str, str]) -> Check:
    """Judge which distributions of onnxruntime are there, and whether it can be loaded.

    Args:
        found: Version by name of the distribution, as `installed_runtimes` returns it.
    """
    detail = " and ".join(f"{name} {version}" for name, version in found.items())
    if len(found) > 1:
        kept = next(name for name in (*(name for name in found if name != "onnxruntime"), *found))
        detail += " are installed over each other: only one may be there, and a GPU may go unused"
        step = f"pip uninstall -y {' '.join(found)}, then pip install {kept}"
        return Check("onnxruntime", Status.FAIL, detail, step)
    try:
        running = str(import_runtime().__version__)
    except DeviceError as error:
        return Check("onnxruntime", Status.FAIL, str(error))
    if found and running not in found.values():
        detail += f" is what pip installed, but {running} is what runs"
        return Check("onnxruntime", Status.FAIL, detail, repair_command(found))
    return Check("onnxruntime", Status.OK, detail or f"{running}, not installed by pip")


def check_model(folder: Path) -> Iterator[Check]:
    """Check the files of a bundle, and that it scores here as it did where it was made.

    Args:
        folder: Of the bundle.
    """
    step = _REINSTALL if folder == EMBEDDED_FOLDER else "download or make the bundle again"
    try:
        bundle = ModelBundle.load(folder)
        total = sum((folder / name).stat().st_size for name in bundle.checksums)
    except ModelError as error:
        yield Check("model", Status.FAIL, str(error), step)
        return
    except OSError as error:
        yield Check("model", Status.FAIL, f"{printable(str(folder))}: {error.strerror or error}", step)
        return
    files = f"{count_of(len(bundle.checksums), 'file')}, {size(total)}, as they should be"
    yield Check("model", Status.OK, f"{bundle.bundle_id} {bundle.bundle_revision[:12]}: {files}")
    backbone = Backbone(bundle)
    try:
        yield _check_device(backbone)
        yield _check_golden(bundle, backbone)
    except PiaaError as error:
        yield Check("known scores", Status.FAIL, f"cannot be computed: {error}")
    except OSError as error:
        yield Check("known scores", Status.FAIL, f"{GOLDEN_NAME}: {error.strerror or error}", step)
    except (KeyError, TypeError, ValueError) as error:
        yield Check("known scores", Status.FAIL, f"{GOLDEN_NAME} makes no sense: {error}", step)


def check_folder(name: str, folder: Path) -> Check:
    """Check that files can be made in a folder, or the folder itself if it is not there yet.

    Args:
        name: What the folder is for.
        folder: Where it is.
    """
    shown = printable(str(folder))
    existing = next(place for place in (folder, *folder.absolute().parents) if _can_be_seen(place))
    step = "make it writable, or name another place in the environment variable PIAA_HOME"
    if not existing.is_dir():
        return Check(name, Status.FAIL, f"{shown}: {printable(str(existing))} is a file", step)
    if existing != folder:
        # Nothing is made only to see whether it can be.
        if os.access(existing, os.W_OK | os.X_OK):
            return Check(name, Status.OK, f"{shown}: made when it is first needed")
        return Check(
            name, Status.FAIL, f"{shown}: cannot be made, {printable(str(existing))} is read-only", step
        )
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
    except OSError as error:
        return Check(name, Status.FAIL, f"{shown}: cannot be written: {error.strerror or error}", step)
    return Check(name, Status.OK, f"{shown}: {size(_folder_size(folder))}")


def _check_python() -> Check:
    machine = f"{platform.system()} {platform.machine()}, {count_of(cpu_count(), 'core')}"
    here = f"piaa-sdk {__version__} in {printable(str(Path(__file__).parent))}"
    return Check("Python", Status.OK, f"{platform.python_version()}, {machine}; {here}")


def _check_device(backbone: Backbone) -> Check:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", PiaaWarning)
        used = backbone.device
    problems = "; ".join(str(warning.message) for warning in caught)
    if problems:
        return Check("device", Status.WARN, f"{used} is used: {problems}")
    others = [device for device in available_devices() if device != used]
    return Check("device", Status.OK, used + (f"; also there: {', '.join(others)}" if others else ""))


def _check_golden(bundle: ModelBundle, backbone: Backbone) -> Check:
    if GOLDEN_NAME not in bundle.checksums:
        return Check("known scores", Status.WARN, f"the model has no {GOLDEN_NAME} to compare with")
    golden: dict[str, Any] = json.loads(bundle.path(GOLDEN_NAME).read_text(encoding="utf-8"))
    prior = Prior.load(bundle.prior_path)
    allowed = golden["tolerance"]
    differences, movements = {}, {}
    for picture in golden["pictures"]:
        pixels = load_image(bundle.path(picture["file"]), bundle.preprocessing)
        embedding = backbone.embed(pixels[np.newaxis])
        score = float(bundle.rating_scale.from_unit(prior.generic(embedding))[0])
        differences[picture["file"]] = abs(score - float(picture["score"]))
        if "embedding_start" in picture:
            movements[picture["file"]] = _movement(picture, embedding[0])
    worst = max(differences, key=lambda name: differences[name])
    pictures = count_of(len(differences), "picture")
    found = f"{pictures} on {backbone.device}, largest difference {differences[worst]:.4f}"
    step = _step_for_other_scores(backbone.device)
    if not differences[worst] <= float(allowed["score"]):
        detail = f"{found} ({worst}), allowed {allowed['score']:g}: scores here are not those of the model"
        return Check("known scores", Status.FAIL, detail, step)
    moved = max(movements, key=lambda name: movements[name], default=None)
    if moved is not None and not movements[moved] <= float(allowed["embedding"]):
        detail = (
            f"{found}, but the embedding of {moved} moved by {movements[moved]:.4f} of its norm, allowed "
            f"{allowed['embedding']:g}: what is learned here would not be of use elsewhere"
        )
        return Check("known scores", Status.FAIL, detail, step)
    return Check("known scores", Status.OK, found)


def _movement(picture: dict[str, Any], embedding: FloatArray) -> float:
    """Return the largest change among the stored numbers of an embedding (D,), as a share of its norm."""
    start = np.array(picture["embedding_start"], dtype=np.float64)
    norm = float(picture["embedding_norm"])
    changes = [*(embedding[: len(start)] - start), float(np.linalg.norm(embedding)) - norm]
    return float(np.abs(changes).max() / norm)


def _step_for_other_scores(device: str) -> str:
    update = f"pip install --upgrade pillow {' '.join(installed_runtimes()) or 'onnxruntime'}"
    if device == "cpu":
        return update
    return f"add --device cpu to piaa score and piaa personalize until the driver is updated; {update}"


def check_profiles(store: ProfileStore, bundle_revision: str) -> Iterator[Check]:
    """Check that every stored profile can be read and is made for the model in use.

    Args:
        store: Where they are.
        bundle_revision: Of the model in use.
    """
    names = store.names()
    good = 0
    for name in names:
        try:
            profile = store.load(name)
        except PiaaError as error:
            yield Check("profile", Status.WARN, f"{printable(name)}: {error}")
            continue
        if profile.bundle_revision == bundle_revision:
            good += 1
            continue
        detail = f"{printable(name)} was learned with {profile.bundle_id} {profile.bundle_revision[:12]}"
        yield Check("profile", Status.WARN, detail, f"piaa users refit {shlex.quote(name)}")
    yield Check("profiles", Status.OK, f"{good} of {len(names)} ready to use" if names else "none yet")


def _check_cache(path: Path) -> Check:
    summary = embedding_cache.summarize(path)
    if summary.problem is not None:
        detail = f"{printable(str(path))} cannot be used: {summary.problem}"
        return Check("cache", Status.WARN, detail, "piaa cache clear")
    photos = count_of(sum(summary.embeddings.values()), "photo")
    return Check("cache", Status.OK, f"{photos}, {size(summary.bytes)} of at most {size(summary.limit)}")


def _check_formats() -> Check:
    supported = supported_formats()
    readable = ", ".join(name for name, is_there in supported.items() if is_there)
    missing = ", ".join(name for name, is_there in supported.items() if not is_there)
    return Check("photo formats", Status.OK, f"{readable}; not {missing}" if missing else readable)


def _check_extras() -> Iterator[Check]:
    for extra, (purpose, modules) in _EXTRAS.items():
        if all(find_spec(module) is not None for module in modules):
            yield Check(f"extra {extra}", Status.OK, f"{purpose}: installed")
        else:
            command = f"{install_command(extra)}, if you want it"
            yield Check(f"extra {extra}", Status.OK, f"{purpose}: not installed", command)


def _can_be_seen(place: Path) -> bool:
    try:
        return place.exists()
    except OSError:  # inside a folder that may not be entered
        return False


def _folder_size(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # gone meanwhile
                total += Path(place, name).lstat().st_size
    return total
