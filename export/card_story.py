"""How a bundle came about, as far as its configuration and the record of its run tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from piaa_sdk.finetune.bundle_network import STATISTICS
from piaa_sdk.finetune.statistics_network import ARCHITECTURE

if TYPE_CHECKING:
    from collections.abc import Mapping

KERNEL_PRIOR = "kernel_prior"
IMAGENET = "ImageNet"
RANDOM = "random"

_BACKBONES = {
    "alexnet": "AlexNet",
    "resnet18": "ResNet18",
    "inception_v3": "Inception-v3",
    ARCHITECTURE: "EfficientNet-Lite0",
}

_METHODS = {
    "blg": "meta-learned over people by bilevel gradient optimization (BLG-PIAA, Zhu and others 2022, "
    "Algorithm 1)",
    "maml": "meta-learned over people by MAML (Finn, Abbeel and Levine 2017)",
    "maml_first_order": "meta-learned over people by first-order MAML (Finn, Abbeel and Levine 2017)",
    "reptile": "meta-learned over people by Reptile (Nichol, Achiam and Schulman 2018)",
    "generic": "trained on everybody's mean ratings, as a generic network is; nothing in it was meta-learned",
    "closed_form": "meta-learned over people through the exact solution of the adaptation, in closed form",
}
"""How a learner's prior came about, by the name its section has in a configuration."""

_META_LEARNERS = ("blg", "maml", "reptile", "closed_form")


@dataclass(frozen=True, slots=True)
class Story:
    """What a card may tell of a bundle's making; empty, 0 or None where it is not known.

    Attributes:
        kind: Of the network, ``statistics`` or ``aesthetic``.
        backbone: Its name for people.
        learner: What made the prior: ``kernel_prior`` or a name of ``training/learners``.
        method: The same in words that end a sentence.
        title: What tables call the settings.
        mode: ``head`` or ``full``: what was learned.
        weights: What the backbone began with: ``ImageNet``, ``random``, or a file by its digest.
        iterations: Outer steps done.
        tasks: People per outer step.
        data: Name of the rating set.
        people: How many were trained on.
        pictures: How many of their pictures.
        has_leak: Whether pictures of the people to be judged were trained on.
        size: Edge of the pictures in pixels.
        fit: How a picture becomes a square.
        versions: Of the packages.
        git_commit: Of the code.
        has_readouts: Whether the embedding joins statistics of several layers.
    """

    kind: str
    backbone: str
    learner: str
    method: str
    title: str
    mode: str
    weights: str
    iterations: int
    tasks: int
    data: str
    people: int
    pictures: int
    has_leak: bool
    size: int
    fit: str
    versions: Mapping[str, str]
    git_commit: str
    has_readouts: bool

    @classmethod
    def of(
        cls, config: Mapping[str, Any], run: Mapping[str, Any], preprocessing: Mapping[str, Any] | None
    ) -> Self:
        """Gather what is known.

        Args:
            config: Content of ``config.json``.
            run: Content of ``run.json``; where it lacks something, what ``config.json`` says of the training
                counts.
            preprocessing: Content of ``preprocessor_config.json``, or None for what the run says.
        """
        told: dict[str, Any] = {**config.get("training", {}), **run}
        network = config.get("network") or {}
        kind = network.get("kind", STATISTICS)
        settings = told.get("configuration") or {}
        learner = _learner(told, settings, kind)
        first_order = learner == "maml" and settings.get("maml", {}).get("first_order", False)
        split = told.get("split") or {}
        seen = preprocessing or told.get("preprocessing") or {"size": network.get("size", 0)}
        # Runs of the kernel prior read the weights of the installed package, and no others.
        weights = told.get("backbone_weights") or (IMAGENET if kind == STATISTICS else "")
        name = network.get("backbone") or (ARCHITECTURE if kind == STATISTICS else "")
        return cls(
            kind=kind,
            backbone=_BACKBONES.get(name, name),
            learner=learner,
            method=_METHODS.get("maml_first_order" if first_order else learner, ""),
            title=settings.get("title", told.get("title", "")),
            mode=told.get("mode") or "",
            weights=weights,
            iterations=told.get("iterations_done") or 0,
            tasks=settings.get("tasks", {}).get("tasks", 0),
            data=split.get("data") or told.get("data_name") or "",
            people=len(told.get("people") or ()),
            pictures=len(told.get("pictures") or ()),
            has_leak=bool(split.get("report", {}).get("leak_kept")),
            size=seen.get("size", 0),
            fit=seen.get("fit", ""),
            versions=told.get("versions") or {},
            git_commit=told.get("git_commit") or "",
            has_readouts=kind == STATISTICS,
        )

    @property
    def is_kernel_prior(self) -> bool:
        """Whether the head was fitted by ``python -m training fit``."""
        return self.learner == KERNEL_PRIOR

    @property
    def is_from_imagenet(self) -> bool:
        """Whether the backbone began with weights trained on ImageNet."""
        return self.weights == IMAGENET

    @property
    def tags(self) -> tuple[str, ...]:
        """Further tags for the Hub."""
        return ("meta-learning",) if self.learner in _META_LEARNERS else ()

    @property
    def relation(self) -> str:
        """What the bundle is to its base model, as the Hub names it; empty if that is not known."""
        if self.kind == STATISTICS or self.mode == "head":
            return "adapter"  # the backbone is as it was
        return "finetune" if self.mode == "full" else ""


def _learner(told: Mapping[str, Any], settings: Mapping[str, Any], kind: str) -> str:
    named = told.get("learner")
    if isinstance(named, str):
        return named
    found = [name for name in (*_META_LEARNERS, "generic") if name in settings]
    if found:
        return found[0]
    return KERNEL_PRIOR if kind == STATISTICS else ""
