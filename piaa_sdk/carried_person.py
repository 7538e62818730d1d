"""What scoring for one person needs on another machine, small enough to send along with the work.

Neither ratings nor names of rated photos are in it, and no profile store is needed where it arrives.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import numpy as np
import safetensors
import safetensors.numpy

from piaa_sdk.errors import ProfileFormatError
from piaa_sdk.fine_tuned import FINE_TUNED, FineTunedHead, pack, unpack
from piaa_sdk.head import PersonalHead
from piaa_sdk.rating_scale import RatingScale
from piaa_sdk.user_profile import smallest_exact

if TYPE_CHECKING:
    from piaa_sdk.head import Prior

_EMBEDDINGS = "embeddings"


@dataclass(frozen=True, slots=True)
class CarriedPerson:
    """One person's head on the way to another machine.

    Attributes:
        user: Name that the rows get; None for a person without one.
        kind: How the head was learned.
        ends: Lowest and highest rating of the person's scale.
        tensors: The head, safetensors; for a person with a network of their own, the network too.
    """

    user: str | None
    kind: str
    ends: tuple[float, float]
    tensors: bytes = field(repr=False)

    @classmethod
    def of(
        cls,
        user: str | None,
        kind: str,
        scale: RatingScale,
        head: PersonalHead | FineTunedHead,
        graph: bytes = b"",
    ) -> Self:
        """Pack a head.

        Args:
            user: Name that the rows get.
            kind: How the head was learned.
            scale: The person's.
            head: What was learned.
            graph: The network that a fine-tuned head reads.
        """
        if isinstance(head, FineTunedHead):
            tensors = pack(graph, head)
        else:
            tensors = {**head.to_tensors(), _EMBEDDINGS: smallest_exact(head.embeddings)}
        plain = {name: np.array(tensor, order="C") for name, tensor in sorted(tensors.items())}
        return cls(user, kind, (scale.low, scale.high), safetensors.numpy.save(plain))

    @property
    def scale(self) -> RatingScale:
        """Units of the person's scores."""
        return RatingScale(*self.ends)

    def head(self, prior: Prior) -> PersonalHead:
        """Make the head again, on top of its prior.

        Raises:
            ProfileFormatError: It is damaged, or does not fit the prior.
        """
        tensors = self._tensors()
        try:
            embeddings = tensors[_EMBEDDINGS].astype(np.float32)
        except KeyError as error:
            raise ProfileFormatError("the embeddings of rated photos are missing; pack it anew") from error
        return PersonalHead.from_tensors(prior, embeddings, tensors)

    def network(self) -> tuple[bytes, FineTunedHead]:
        """Return the graph of a person's own network and its head.

        Raises:
            ProfileFormatError: There is none in it.
            ModelFormatError: The head is damaged.
        """
        return unpack(self._tensors())

    @property
    def has_network(self) -> bool:
        """Whether the person has a network of their own."""
        return self.kind == FINE_TUNED

    def _tensors(self) -> dict[str, np.ndarray]:
        try:
            return safetensors.numpy.load(self.tensors)
        except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
            raise ProfileFormatError(f"the head of a person is damaged ({error}); pack it anew") from error
