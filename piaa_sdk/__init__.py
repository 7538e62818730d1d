"""Learn one person's taste in photographs from a few ratings, then score any number of photos with it.

::

    from piaa_sdk import Scorer

    scorer = Scorer.from_pretrained()
    scorer.score("holiday/")                                  # what most people would like
    mira = scorer.personalize("ratings.csv", user="mira")     # what Mira likes
    mira.score("holiday/")

Everything in ``__all__`` is loaded when it is first used: importing the package costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from piaa_sdk.choices import Method
    from piaa_sdk.errors import (
        DeviceError,
        DivergenceError,
        EngineError,
        HubError,
        ImageError,
        MissingDependencyError,
        ModelError,
        ModelFormatError,
        ModelNotFoundError,
        OutputError,
        PiaaError,
        PiaaWarning,
        ProfileError,
        ProfileExistsError,
        ProfileFormatError,
        ProfileMismatchError,
        ProfileNotFoundError,
        RatingError,
        SupportSetError,
    )
    from piaa_sdk.fine_tuned import FineTuneOptions
    from piaa_sdk.hub import Published
    from piaa_sdk.profiles import UserProfile
    from piaa_sdk.rating_scale import RatingScale
    from piaa_sdk.results import Adaptation, Comparison, Prediction, Score, SupportSet, Verdict
    from piaa_sdk.scorer import Scorer, score_each

__version__ = "0.1.0"

__all__ = [
    "Adaptation",
    "Comparison",
    "DeviceError",
    "DivergenceError",
    "EngineError",
    "FineTuneOptions",
    "HubError",
    "ImageError",
    "Method",
    "MissingDependencyError",
    "ModelError",
    "ModelFormatError",
    "ModelNotFoundError",
    "OutputError",
    "PiaaError",
    "PiaaWarning",
    "Prediction",
    "ProfileError",
    "ProfileExistsError",
    "ProfileFormatError",
    "ProfileMismatchError",
    "ProfileNotFoundError",
    "Published",
    "RatingError",
    "RatingScale",
    "Score",
    "Scorer",
    "SupportSet",
    "SupportSetError",
    "UserProfile",
    "Verdict",
    "__version__",
    "score_each",
]

_HOMES = {
    "Adaptation": "results",
    "Comparison": "results",
    "FineTuneOptions": "fine_tuned",
    "Method": "choices",
    "Prediction": "results",
    "Published": "hub",
    "RatingScale": "rating_scale",
    "Score": "results",
    "Scorer": "scorer",
    "SupportSet": "results",
    "UserProfile": "profiles",
    "Verdict": "results",
    "score_each": "scorer",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value  # the next use does not come through here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
