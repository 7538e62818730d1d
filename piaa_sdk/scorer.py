"""The one object most callers need: it scores pictures, and learns a person's taste."""

from __future__ import annotations

import os
import shlex
import time
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, overload

import numpy as np

from piaa_sdk.adaptation import adapt, judge
from piaa_sdk.backbone import Backbone
from piaa_sdk.bundle import ModelBundle
from piaa_sdk.embedding_cache import EmbeddingCache, default_path
from piaa_sdk.errors import (
    ImageError,
    ModelFormatError,
    ProfileFormatError,
    ProfileMismatchError,
    ProfileNotFoundError,
    RatingError,
)
from piaa_sdk.head import PersonalHead, Prior
from piaa_sdk.hub import resolve_folder
from piaa_sdk.images import find_images, printable
from piaa_sdk.pipeline import embed_images
from piaa_sdk.profiles import (
    ProfileStore,
    UserProfile,
    check_model,
    check_same_ratings,
    check_scale,
    merge_ratings,
    other_ratings,
    portable_name,
    target_of_export,
    write_export,
)
from piaa_sdk.rating_scale import RatingScale
from piaa_sdk.ratings import choose_scale, collect_ratings
from piaa_sdk.results import Prediction, Score, SupportSet

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from piaa_sdk.array_types import FloatArray, ImageInput, PathInput
    from piaa_sdk.pipeline import EmbeddedImage
    from piaa_sdk.ratings import Rating, RatingsInput
    from piaa_sdk.results import Adaptation

KIND = "closed-form"
"""How the heads of this module are learned."""

_TOGETHER = 256  # embeddings that are turned into scores at once
_HOLD_SECONDS = 0.02  # how long one waits for others to be scored with


class Scorer:
    """Scores pictures, for nobody in particular or for one person.

    Make one with :meth:`from_pretrained`; :meth:`personalize` makes another one from it. A scorer is never
    changed, and may be shared between threads.

    Attributes:
        bundle: The model.
        user: Name of the person whose profile is used; None without a stored one.
        scale: Units of the scores: the person's own, else the bundle's.
        profile: The stored profile, None without one.
        support: What was learned from, None for the generic scorer.
    """

    def __init__(self, engine: _Engine, person: _Person | None = None) -> None:
        self._engine = engine
        self._person = person
        self.bundle: ModelBundle = engine.bundle
        self.user: str | None = person.user if person else None
        self.scale: RatingScale = person.scale if person else engine.bundle.rating_scale
        self.profile: UserProfile | None = person.profile if person else None
        self.support: SupportSet | None = person.support if person else None

    @classmethod
    def from_pretrained(
        cls,
        model: PathInput | None = None,
        *,
        user: str | None = None,
        device: str = "auto",
        cache: bool | PathInput = True,
        workers: int | None = None,
        batch_size: int = 8,
    ) -> Self:
        """Load a model, and a person's profile if one is named.

        Args:
            model: Folder of a bundle; None for the one that comes with the package.
            user: Name of a stored profile.
            device: ``auto``, ``cpu``, ``cuda``, ``coreml`` or ``directml``.
            cache: Whether embeddings are kept on this machine, or the file to keep them in.
            workers: Threads that decode and infer; by default as many as there are cores.
            batch_size: Pictures that a thread takes at once.

        Raises:
            ModelNotFoundError: There is no such bundle.
            ModelFormatError: The bundle is damaged or of a newer format.
            ProfileNotFoundError: Nobody of that name is stored.
            ProfileMismatchError: The profile was made for another bundle; the message says how to refit it.
            DeviceError: The device is not available.
        """
        engine = _Engine(ModelBundle.load(resolve_folder(model)), device, cache, workers, batch_size)
        if user is None:
            return cls(engine)
        profile = ProfileStore().load(user)
        check_model(profile, engine.bundle, kind=KIND)
        head = PersonalHead.from_tensors(engine.prior, profile.support.embeddings, profile.head)
        return cls(engine, _Person(profile.user, profile.scale, profile.support, head, profile))

    def __repr__(self) -> str:
        whose = f"user={self.user!r}" if self.user else "generic" if self._person is None else "personal"
        revision = self.bundle.bundle_revision[:12]
        return f"<Scorer {self.bundle.bundle_id} {revision}, {whose}, scale {self.scale}>"

    @property
    def device(self) -> str:
        """The device that pictures are embedded on."""
        return self._engine.backbone.device

    @cached_property
    def adaptation(self) -> Adaptation | None:
        """What left-out ratings say about the personal head; None for the generic scorer."""
        if self._person is None:
            return None
        if self._person.profile is not None and self._person.profile.adaptation is not None:
            return self._person.profile.adaptation
        return judge(self._engine.prior, self._person.support)

    def score(self, images: ImageInput | Iterable[ImageInput]) -> list[Score]:
        """Score pictures.

        Args:
            images: A picture, a folder of pictures, or any iterable of both.

        Returns:
            One Score per picture, in the order given, with percentiles. A picture that cannot be read has a
            Score with ``error``; all others are scored.
        """
        scores = list(self.iter_scores(images))
        values = np.sort([score.value for score in scores if score.value is not None])
        return [
            score
            if score.value is None
            else _with_percentile(
                score, float(np.searchsorted(values, score.value, side="right") * 100 / len(values))
            )
            for score in scores
        ]

    def iter_scores(self, images: ImageInput | Iterable[ImageInput | ImageError]) -> Iterator[Score]:
        """Score pictures one after the other, in bounded memory, without percentiles.

        Args:
            images: As for :meth:`score`; an endless iterator is welcome. An ImageError among them comes out
                as the error of its Score.

        Returns:
            An iterator in the order of the input. Closing it stops the work.
        """
        waiting: list[EmbeddedImage] = []
        due = time.monotonic() + _HOLD_SECONDS
        for embedded in self._engine.embed(images):
            waiting.append(embedded)
            if len(waiting) >= _TOGETHER or time.monotonic() >= due:
                yield from self._scores(waiting)
                waiting = []
                due = time.monotonic() + _HOLD_SECONDS
        yield from self._scores(waiting)

    def embed(self, images: ImageInput | Iterable[ImageInput]) -> FloatArray:
        """Compute the embeddings that everything else is learned from.

        Args:
            images: As for :meth:`score`.

        Returns:
            (N, D) float32, in the order given.

        Raises:
            ImageError: A picture cannot be read.
        """
        embeddings = [_embedding(embedded) for embedded in self._engine.embed(images)]
        empty = np.empty((0, self.bundle.embedding_dim), dtype=np.float32)
        return np.stack(embeddings) if embeddings else empty

    @overload
    def score_embeddings(self, embeddings: FloatArray, return_std: Literal[False] = False) -> FloatArray: ...

    @overload
    def score_embeddings(
        self, embeddings: FloatArray, return_std: Literal[True]
    ) -> tuple[FloatArray, FloatArray]: ...

    def score_embeddings(
        self, embeddings: FloatArray, return_std: bool = False
    ) -> FloatArray | tuple[FloatArray, FloatArray]:
        """Score embeddings.

        Args:
            embeddings: (N, D), as :meth:`embed` gives them.
            return_std: Whether to give the predictive standard deviations too.

        Returns:
            Scores (N,), rating units; with ``return_std`` also (N,) standard deviations, rating units.

        Raises:
            ValueError: Another shape, or standard deviations of the generic score, which has none.
        """
        prediction = self.predict(embeddings)
        if not return_std:
            return prediction.value
        if prediction.std is None:
            raise ValueError("the generic score has no standard deviation; personalize the scorer first")
        return prediction.value, prediction.std

    def predict(self, embeddings: FloatArray) -> Prediction:
        """Score embeddings, with all figures.

        Args:
            embeddings: (N, D), as :meth:`embed` gives them.

        Raises:
            ValueError: Another shape.
        """
        embeddings = np.asarray(embeddings)
        if embeddings.ndim != 2 or embeddings.shape[1] != self.bundle.embedding_dim:
            raise ValueError(f"embeddings are {embeddings.shape}, must be (N, {self.bundle.embedding_dim})")
        generic = self.scale.from_unit(self._engine.prior.generic(embeddings))
        if self._person is None:
            return Prediction(generic)
        mean, std, latent_std = self._person.head.predict(embeddings)
        span = self.scale.span
        return Prediction(generic, self.scale.from_unit(mean), std * span, latent_std * span)

    def personalize(
        self,
        ratings: RatingsInput,
        *,
        user: str | None = None,
        scale: tuple[float, float] | RatingScale | None = None,
        photos: PathInput | None = None,
        add: bool = False,
        replace: bool = False,
    ) -> Self:
        """Learn one person's taste from rated pictures.

        Args:
            ratings: A mapping or (picture, rating) pairs, a CSV file, or a data frame.
            user: Name to store the profile under; None stores nothing.
            scale: The ends of the person's scale; None recognizes the smallest common one.
            photos: Folder that paths are relative to.
            add: Learn from the stored ratings of ``user`` and these together.
            replace: Forget the stored ratings of ``user``; a backup of them is kept.

        Returns:
            A new Scorer for this person.

        Raises:
            RatingError: Ratings that cannot be understood, or a rated picture that cannot be read; named.
            SupportSetError: Too few ratings, or all equal.
            ProfileExistsError: Other ratings are stored under that name, and neither ``add`` nor ``replace``.
            ProfileNotFoundError: Nobody of that name is stored to add to.
        """
        if add and replace:
            raise ValueError("add to the stored ratings or replace them, not both")
        if (add or replace) and user is None:
            raise ValueError("add and replace are about a stored profile; name it with user=")
        rows = collect_ratings(ratings, photos=photos).of_user(user)
        stored = _stored(user, add=add, replace=replace)
        known = None if replace else stored
        if known is not None:
            check_scale(known, None if scale is None else RatingScale(*_ends(scale)))
        images = _names(rows, known)
        values: FloatArray = np.array([row.rating for row in rows], dtype=np.float64)
        has_names = all(isinstance(row.image, str) for row in rows)
        if known is not None and not add and has_names:
            check_same_ratings(known, images, values)
        own_scale = choose_scale(rows, scale if known is None else known.scale)
        if known is not None and add:
            check_model(known, self.bundle, kind=KIND, only_embeddings=True)
        embeddings = self._embed_rated(rows)
        if known is not None and (add or not has_names):
            merged = merge_ratings(known, images, values, embeddings)
            images, values, embeddings = merged.images, merged.ratings, merged.embeddings
            if not add:
                if merged.added or merged.changed or len(rows) != len(known.support):
                    raise other_ratings(known)
                images = known.support.images
        return self._learned(
            user, own_scale, images, values, embeddings, backup=stored is not None and replace
        )

    def refit(self, user: str) -> Self:
        """Learn a stored profile again, with this model.

        The stored embeddings are used if this model makes the same ones; else the rated pictures are read
        again from where they were.

        Raises:
            ProfileNotFoundError: Nobody of that name is stored.
            ProfileMismatchError: The pictures have to be read again, and one cannot be.
        """
        profile = ProfileStore().load(user)
        embeddings = profile.support.embeddings
        if profile.embedding_id != self.bundle.embedding_id:
            _check_places(profile)
            embeddings = np.stack(
                [
                    _rated_embedding(profile, item)
                    for item in self._engine.embed(map(Path, profile.support.images), expand=False)
                ]
            )
        return self._learned(profile.user, profile.scale, profile.support.images, profile.ratings, embeddings)

    def export_onnx(self, path: PathInput, *, replace: bool = False) -> Path:
        """Write this scorer as one ONNX graph that any program with onnxruntime can run.

        It takes ``pixels`` (N, S, S, 3) uint8 RGB and gives ``score`` (N,) and, for a person, ``std`` (N,),
        rating units; its metadata properties say how a photo becomes pixels. It holds no ratings, no names
        and no photos, but numbers that were computed from the rated photos and ratings.

        Args:
            path: The file, or a folder that gets ``NAME.onnx``.
            replace: Write over a file that is there.

        Returns:
            The file.

        Raises:
            MissingDependencyError: The package onnx is missing.
            ModelFormatError: The model does not fit in one graph.
            OutputError: The file is there already, its name is one for a photo, or it cannot be written.
        """
        from piaa_sdk.graphs import check_onnx, encoded, scoring_graph

        check_onnx()
        whose = "generic" if self._person is None else "personal"
        name = f"{whose}.onnx" if self.user is None else portable_name(self.user, ".onnx")
        target = target_of_export(path, name, replace=replace)
        if self._person is None:
            graph = scoring_graph(self.bundle, self._engine.prior, self.scale, kind="generic")
        else:
            graph = scoring_graph(self.bundle, self._person.head, self.scale, kind=KIND)
        write_export(target, encoded(graph))
        return target

    def _learned(
        self,
        user: str | None,
        scale: RatingScale,
        images: tuple[str, ...],
        ratings: FloatArray,
        embeddings: FloatArray,
        *,
        backup: bool = False,
    ) -> Self:
        support = SupportSet(embeddings, scale.to_unit(ratings), images)
        head = adapt(self._engine.prior, support)
        if user is None:
            return type(self)(self._engine, _Person(None, scale, support, head, None))
        profile = UserProfile(
            user=user,
            kind=KIND,
            scale=scale,
            bundle_id=self.bundle.bundle_id,
            bundle_revision=self.bundle.bundle_revision,
            embedding_id=self.bundle.embedding_id,
            head=head.to_tensors(),
            support=support,
            ratings=ratings,
            adaptation=judge(self._engine.prior, support),
        )
        ProfileStore().save(profile, backup=backup)
        return type(self)(self._engine, _Person(profile.user, scale, support, head, profile))

    def _embed_rated(self, rows: Sequence[Rating]) -> FloatArray:
        embeddings = []
        for row, embedded in zip(
            rows, self._engine.embed([row.image for row in rows], expand=False), strict=True
        ):
            if embedded.error is not None:
                reason = printable(embedded.error.reason)
                raise RatingError(
                    f"{row.where}: {printable(row.name)}: {reason}; leave the row out or mend the file"
                ) from embedded.error
            embeddings.append(_embedding(embedded))
        return np.stack(embeddings)

    def _scores(self, embedded: Sequence[EmbeddedImage]) -> Iterator[Score]:
        readable = [item.embedding for item in embedded if item.embedding is not None]
        if not readable:
            yield from (Score(item.source, self.user, error=item.error) for item in embedded)
            return
        prediction = self.predict(np.stack(readable))
        row = 0
        for item in embedded:
            if item.embedding is None:
                yield Score(item.source, self.user, error=item.error)
                continue
            yield Score(
                image=item.source,
                user=self.user,
                generic=float(prediction.generic[row]),
                personal=_at(prediction.personal, row),
                std=_at(prediction.std, row),
                latent_std=_at(prediction.latent_std, row),
                stars=self.scale.stars(float(prediction.value[row])),
            )
            row += 1


@dataclass(frozen=True, slots=True, eq=False)
class _Person:
    """Whose taste a scorer has learned; ``user`` and ``profile`` only if it is stored."""

    user: str | None
    scale: RatingScale
    support: SupportSet
    head: PersonalHead
    profile: UserProfile | None


class _Engine:
    """What the scorers of one model share: the graph, the prior and the cache."""

    def __init__(
        self, bundle: ModelBundle, device: str, cache: bool | PathInput, workers: int | None, batch_size: int
    ) -> None:
        self.bundle = bundle
        self.prior = Prior.load(bundle.prior_path)
        if self.prior.embedding_dim != bundle.embedding_dim:
            raise ModelFormatError(
                f"bundle {bundle.folder}: the prior reads {self.prior.embedding_dim} numbers, the embedding "
                f"has {bundle.embedding_dim}; fetch the bundle again"
            )
        self.backbone = Backbone(bundle, device, batch_size=batch_size)
        self._cache = cache
        self._workers = workers
        self._batch_size = batch_size

    @cached_property
    def cache(self) -> EmbeddingCache | None:
        if self._cache is False:
            return None
        path = default_path() if self._cache is True else Path(self._cache)
        return EmbeddingCache(path, self.bundle.embedding_id, self.bundle.embedding_dim)

    def embed(
        self, images: ImageInput | Iterable[ImageInput | ImageError], *, expand: bool = True
    ) -> Iterator[EmbeddedImage]:
        listed = _listed([images] if _is_one(images) else images, expand=expand)  # type: ignore[arg-type, list-item]
        return embed_images(
            self.backbone,
            self.bundle.preprocessing,
            listed,
            cache=self.cache,
            workers=self._workers,
            batch_size=self._batch_size,
        )


def _is_one(images: object) -> bool:
    from PIL import Image

    return isinstance(images, (str, os.PathLike, bytes, Image.Image, np.ndarray))


def _listed(images: Iterable[ImageInput | ImageError], *, expand: bool) -> Iterator[ImageInput | ImageError]:
    for image in images:
        # Path.is_dir() raises where a name is too long or its folder may not be entered.
        if expand and isinstance(image, (str, os.PathLike)) and os.path.isdir(image):  # noqa: PTH112
            yield from find_images([image])
        else:
            yield image


def _embedding(embedded: EmbeddedImage) -> FloatArray:
    if embedded.embedding is None:
        raise embedded.error or ImageError(embedded.source, "cannot be read")
    return embedded.embedding


def _check_places(profile: UserProfile) -> None:
    """Refuse names without folders, as an imported profile has: another picture may be called the same."""
    unknown = [name for name in profile.support.images if not Path(name).is_absolute()]
    if unknown:
        raise ProfileMismatchError(
            f"{printable(profile.user)!r} was learned with a model that sees pictures in another way, and "
            f"where the rated picture {printable(unknown[0])} lies is not known; personalize anew with: "
            f"piaa personalize ratings.csv --user {shlex.quote(profile.user)} --photos FOLDER --replace"
        )


def _rated_embedding(profile: UserProfile, embedded: EmbeddedImage) -> FloatArray:
    if embedded.embedding is None:
        raise ProfileMismatchError(
            f"{printable(profile.user)!r} was learned with a model that sees pictures in another way, and "
            f"the rated picture {embedded.error} must be read again; put it back, or personalize anew with "
            "--replace"
        )
    return embedded.embedding


def _stored(user: str | None, *, add: bool, replace: bool) -> UserProfile | None:
    if user is None:
        return None
    try:
        return ProfileStore().load(user)
    except ProfileNotFoundError:
        if add:
            raise
    except ProfileFormatError:
        if not replace:  # what takes its place needs nothing of it, and the store keeps a backup
            raise
    return None


def _names(rows: Sequence[Rating], known: UserProfile | None) -> tuple[str, ...]:
    """Name the rated pictures; those without a path by a number that no stored picture has."""
    taken = () if known is None else known.support.images
    free = (name for number in count(1) if (name := f"image {number}") not in taken)
    return tuple(row.name if isinstance(row.image, str) else next(free) for row in rows)


def _ends(scale: tuple[float, float] | RatingScale) -> tuple[float, float]:
    return (scale.low, scale.high) if isinstance(scale, RatingScale) else scale


def _at(values: FloatArray | None, row: int) -> float | None:
    return None if values is None else float(values[row])


def _with_percentile(score: Score, percentile: float) -> Score:
    figures: dict[str, Any] = {name: getattr(score, name) for name in Score.__slots__}
    return Score(**{**figures, "percentile": percentile})
