"""Pictures to embeddings, by one network: what all scorers of it share."""

from __future__ import annotations

import hashlib
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from piaa_sdk.backbone import Backbone
from piaa_sdk.embedding_cache import EmbeddingCache, default_path
from piaa_sdk.errors import ModelFormatError
from piaa_sdk.head import Prior
from piaa_sdk.images import PREVIEW_RULE, find_images, is_remote
from piaa_sdk.pipeline import embed_groups, embed_images

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from piaa_sdk.array_types import ImageInput, PathInput
    from piaa_sdk.bundle import ModelBundle
    from piaa_sdk.errors import ImageError
    from piaa_sdk.pipeline import EmbeddedImage


class Engine:
    """What the scorers of one network share: the graph, the prior and the cache.

    Args:
        bundle: Whose graph.
        device: As of :class:`piaa_sdk.backbone.Backbone`.
        cache: Whether embeddings are kept, or the file to keep them in.
        workers: Threads; None for as many as there are cores.
        batch_size: Pictures that a thread takes at once; None for as many as the device likes.
        prior: What reads the embeddings; None for the bundle's.
        previews: Whether :meth:`embed` may decode embedded previews; :mod:`piaa_sdk.images.previews` tells.

    Raises:
        ModelFormatError: The prior is damaged or reads other embeddings.
        DeviceError: There is no such device.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        device: str,
        cache: bool | PathInput,
        workers: int | None,
        batch_size: int | None,
        prior: Prior | None = None,
        *,
        previews: bool = False,
    ) -> None:
        self.bundle = bundle
        self.prior = Prior.load(bundle.prior_path) if prior is None else prior
        if self.prior.embedding_dim != bundle.embedding_dim:
            raise ModelFormatError(
                f"bundle {bundle.folder}: the prior reads {self.prior.embedding_dim} numbers, the embedding "
                f"has {bundle.embedding_dim}; fetch the bundle again"
            )
        self.backbone = Backbone(bundle, device, batch_size=batch_size)
        self._device = device
        self._cache = cache
        self._workers = workers
        self._batch_size = batch_size
        self.previews = previews

    def with_network(self, graph: bytes, prior: Prior) -> Engine:
        """Make the engine of a person's own network, with the same settings.

        Args:
            graph: From pixels to embedding.
            prior: What reads that.
        """
        bundle = self.bundle.with_graph(graph, prior.embedding_dim)
        return Engine(
            bundle,
            self._device,
            self._cache,
            self._workers,
            self._batch_size,
            prior,
            previews=self.previews,
        )

    @property
    def asked_device(self) -> str:
        """The device as it was asked for."""
        return self._device

    @cached_property
    def cache(self) -> EmbeddingCache | None:
        """Where embeddings of photos are kept; None if nowhere."""
        return self._cache_of(self.bundle.embedding_id)

    @cached_property
    def preview_cache(self) -> EmbeddingCache | None:
        """Where embeddings are kept that were made with previews: the same file, never the same entries."""
        return self._cache_of(preview_space(self.bundle.embedding_id))

    def _cache_of(self, space: str) -> EmbeddingCache | None:
        if self._cache is False:
            return None
        path = default_path() if self._cache is True else Path(self._cache)
        return EmbeddingCache(path, space, self.bundle.embedding_dim)

    def embed(
        self,
        images: ImageInput | Iterable[ImageInput | ImageError],
        *,
        expand: bool = True,
        in_full: bool = False,
    ) -> Generator[EmbeddedImage, None, None]:
        """Embed pictures, in the order of the input.

        Args:
            images: A picture, a folder of pictures, the address of either, or any iterable of them and of
                errors.
            expand: Whether folders are walked.
            in_full: Never by an embedded preview, whatever this engine does else: what is learned from is
                stored, and read by whoever scores without them.
        """
        pictures = pictures_of(images, expand=expand)
        settings = self._settings(previews=self.previews and not in_full)
        return embed_images(self.backbone, self.bundle.preprocessing, pictures, **settings)

    def embed_groups(
        self, pictures: Iterable[ImageInput | ImageError]
    ) -> Generator[list[EmbeddedImage], None, None]:
        """Embed pictures, in the order of the input, as many at a time as are ready; none is a folder."""
        settings = self._settings(previews=self.previews)
        return embed_groups(self.backbone, self.bundle.preprocessing, pictures, **settings)

    def _settings(self, *, previews: bool) -> dict[str, Any]:
        return {
            "cache": self.preview_cache if previews else self.cache,
            "workers": self._workers,
            "batch_size": self._batch_size,
            "previews": previews,
        }


def preview_space(embedding_id: str) -> str:
    """Name the embeddings that a bundle makes with previews, hex.

    They are close enough to the bundle's own to be scored by what was learned from those, so profiles fit
    both; they are not the same numbers, so the cache keeps both apart.

    Args:
        embedding_id: The bundle's.
    """
    return hashlib.sha256(f"{embedding_id} previews {PREVIEW_RULE}".encode()).hexdigest()


def pictures_of(
    images: ImageInput | Iterable[ImageInput | ImageError], *, expand: bool = True
) -> Iterator[ImageInput | ImageError]:
    """Go through what pictures were given as, one picture after the other.

    Args:
        images: A picture, a folder of pictures, or any iterable of both and of errors.
        expand: Whether folders are walked.
    """
    given: Iterable[ImageInput | ImageError] = [images] if _is_one(images) else images  # type: ignore[assignment, list-item]
    for image in given:
        # Path.is_dir() raises where a name is too long or its folder may not be entered.
        if expand and isinstance(image, (str, os.PathLike)) and (is_remote(image) or os.path.isdir(image)):  # noqa: PTH112
            yield from find_images([image])
        else:
            yield image


def _is_one(images: object) -> bool:
    from PIL import Image

    return isinstance(images, (str, os.PathLike, bytes, Image.Image, np.ndarray))
