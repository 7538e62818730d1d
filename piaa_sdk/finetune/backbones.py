"""Backbones by the names that torchvision and timm give them, without their weights."""

from __future__ import annotations

from typing import Any

import timm
from torch import nn

from piaa_sdk.errors import ModelFormatError
from piaa_sdk.finetune.statistics_network import ARCHITECTURE

TIMM_PREFIX = "timm/"
"""In front of a name it asks timm first."""

AUXILIARY_HEADS = {"inception_v3": ("AuxLogits",), "googlenet": ("aux1", "aux2")}
"""torchvision's networks with auxiliary heads, which only serve to train from scratch, and their names."""


class Pooled(nn.Module):
    """Convolutional layers, then global average pooling.

    Args:
        features: From pictures (N, 3, S, S) to maps (N, C, H, W).
        rectified: Whether the maps are rectified before they are pooled.
    """

    def __init__(self, features: nn.Module, *, rectified: bool = False) -> None:
        super().__init__()
        self.features = features
        self.rectified = rectified

    def forward(self, pictures: Any) -> Any:
        """Pool pictures (N, 3, S, S) to (N, C)."""
        maps = self.features(pictures)
        return (maps.relu() if self.rectified else maps).mean((2, 3))


def is_lite0(name: str) -> bool:
    """Tell whether a name is that of the embedded model's backbone."""
    return name.removeprefix(TIMM_PREFIX) == ARCHITECTURE


def is_torchvision(name: str) -> bool:
    """Tell whether a name is one of torchvision's classification networks."""
    import torchvision

    return not name.startswith(TIMM_PREFIX) and name in torchvision.models.list_models(
        module=torchvision.models
    )


def bare_backbone(name: str, *, classifier: bool = False) -> nn.Module:
    """Make a backbone (N, 3, S, S) -> (N, D) with random weights.

    Args:
        name: Of torchvision, or else of timm; ``timm/`` in front asks timm first.
        classifier: Whether it keeps its ImageNet classifier, whose numbers are then the embedding.

    Raises:
        ModelFormatError: There is no such backbone.
    """
    if is_lite0(name):
        lite0: nn.Module = timm.create_model(
            ARCHITECTURE, pretrained=False, num_classes=1000 if classifier else 0
        )
        return lite0
    if is_torchvision(name):
        model = bare_torchvision(name)
        without_auxiliary_heads(model, name)
        found: nn.Module = model if classifier else without_classifier(model, name)
        return found
    own = name.removeprefix(TIMM_PREFIX)
    if not timm.is_model(own):
        raise ModelFormatError(
            f"neither torchvision nor timm has a backbone {own!r:.80}; timm.list_models() tells"
        )
    extra: dict[str, Any] = {} if classifier else {"num_classes": 0}
    made: nn.Module = timm.create_model(own, pretrained=False, **extra)
    return made


def bare_torchvision(name: str, *, auxiliary: bool = False) -> Any:
    """Make one of torchvision's networks with random weights.

    Args:
        name: Which.
        auxiliary: Whether it gets its auxiliary heads, if it has any, as files of weights hold them.
    """
    import torchvision

    extra: dict[str, Any] = {}
    if name in AUXILIARY_HEADS:
        # The library's weights expect other pixel statistics; it only says so itself when it loads them.
        extra = {"transform_input": True, "aux_logits": auxiliary, "init_weights": False}
    # The library itself would load its weights as a pickle that may hold code, so it is not asked to.
    return torchvision.models.get_model(name, weights=None, **extra)


def without_auxiliary_heads(model: Any, name: str) -> None:
    """Take the auxiliary heads out of one of torchvision's networks."""
    if name in AUXILIARY_HEADS:
        model.aux_logits = False
        for auxiliary in AUXILIARY_HEADS[name]:
            setattr(model, auxiliary, None)


def without_classifier(model: Any, name: str) -> Any:
    """Cut one of torchvision's networks after its pooling; tensors keep their names.

    Raises:
        ModelFormatError: Where its classifier begins is not known.
    """
    import torchvision

    if isinstance(getattr(model, "fc", None), nn.Linear):
        model.fc = nn.Identity()  # pools already
        if isinstance(getattr(model, "dropout", None), nn.Dropout):
            model.dropout = nn.Identity()
        return model
    # What permutes its maps has the channels last in them.
    if isinstance(getattr(model, "features", None), nn.Module) and not hasattr(model, "permute"):
        # DenseNet's own forward pass rectifies between its layers and the pooling.
        return Pooled(model.features, rectified=isinstance(model, torchvision.models.DenseNet))
    raise ModelFormatError(
        f"where the classifier of torchvision's {name} begins is not known; try timm/{name}, or keep the "
        "classifier (classifier = true)"
    )
