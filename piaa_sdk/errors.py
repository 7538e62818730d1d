"""Everything the SDK raises on purpose.

::

    PiaaError
    ├── ImageError (ValueError)                      unreadable, truncated, too large, too small
    ├── RatingError (ValueError)                     out of scale, not a number, conflicting, no such image
    │   └── SupportSetError                          too few images, all ratings equal
    ├── ModelError
    │   ├── ModelNotFoundError (FileNotFoundError)   not there, or offline and not cached
    │   ├── ModelFormatError (ValueError)            wrong format_version, checksum, tensor or shape
    │   └── DivergenceError (ArithmeticError)        training or fine-tuning left the finite numbers
    ├── ProfileError
    │   ├── ProfileNotFoundError (LookupError)
    │   ├── ProfileExistsError                       other ratings are stored under that name
    │   ├── ProfileFormatError (ValueError)          damaged, foreign or newer profile
    │   └── ProfileMismatchError                     made for another bundle or revision
    ├── OutputError (OSError)                        a result could not be written
    ├── HubError                                     the Hub refused, failed or was cut off
    ├── EngineError                                  a list of photos or a cluster that no job can run with
    ├── DeviceError                                  asked-for device not available
    └── MissingDependencyError (ImportError)         ends with the pip command

    PiaaWarning (UserWarning)                        the run goes on, but something is not as it should be

A message says what was wrong, the value found, the value allowed and the next action.
"""

from __future__ import annotations

_PACKAGES = {
    "cuda": '"onnxruntime-gpu[cuda,cudnn]"',
    "demo": "scikit-image scikit-learn",
    "finetune": "torch torchvision timm onnx onnxscript",
    "onnx": "onnx",
    "parquet": "pyarrow",
    "photos": "pillow-heif rawpy",
    "ray": '"ray[data]" pyarrow',
    "remote": "aiohttp fsspec gcsfs s3fs",
    "train": '-e ".[train]"',
}


def install_command(extra: str) -> str:
    """Return the command that installs what an extra of piaa-sdk brings.

    The packages are named themselves: what a package index has under the name of this one may be another
    program, as long as this one is installed from a checkout or a wheel.
    """
    return f"pip install {_PACKAGES[extra]}"


class PiaaError(Exception):
    """Base of every error the SDK raises on purpose."""


class ImageError(PiaaError, ValueError):
    """One picture cannot be read.

    Attributes:
        source: What the picture was given as: its path, or a name such as ``image 3``.
        reason: Why it cannot be read, one line, no final stop.
    """

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source = source
        self.reason = reason

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        return type(self), (self.source, self.reason)


class RatingError(PiaaError, ValueError):
    """Ratings that cannot be understood or contradict each other."""


class SupportSetError(RatingError):
    """Ratings that nothing can be learned from: too few, or all equal."""


class ModelError(PiaaError):
    """A bundle cannot be used."""


class ModelNotFoundError(ModelError, FileNotFoundError):
    """No bundle at the place named."""


class ModelFormatError(ModelError, ValueError):
    """A bundle that is damaged, incomplete or of a newer format."""


class DivergenceError(ModelError, ArithmeticError):
    """Training or fine-tuning left the finite numbers."""


class ProfileError(PiaaError):
    """A stored profile cannot be used."""


class ProfileNotFoundError(ProfileError, LookupError):
    """Nobody of that name is stored."""


class ProfileExistsError(ProfileError):
    """Other ratings are stored under that name already."""


class ProfileFormatError(ProfileError, ValueError):
    """A profile that is damaged, incomplete or of a newer format."""


class ProfileMismatchError(ProfileError):
    """A profile that was learned from another bundle's embeddings."""


class OutputError(PiaaError, OSError):
    """A result could not be written."""


class HubError(PiaaError):
    """The Hugging Face Hub refused what was asked of it, failed, or was cut off on the way."""


class EngineError(PiaaError):
    """A job for several machines cannot run: its list of photos cannot be read, or the cluster fails."""


class DeviceError(PiaaError):
    """The device that was asked for is not available."""


class MissingDependencyError(PiaaError, ImportError):
    """An optional package is missing.

    Args:
        purpose: What needs the package, for example ``"Parquet output"``.
        extra: The extra of piaa-sdk that brings it.
    """

    def __init__(self, purpose: str, extra: str) -> None:
        super().__init__(f"{purpose} needs an optional package. Install it with: {install_command(extra)}")
        self.extra = extra


class PiaaWarning(UserWarning):
    """The run goes on, but something is not as it should be."""
