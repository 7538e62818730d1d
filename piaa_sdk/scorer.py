"""The one object most callers need: it scores pictures, and learns a person's taste."""

from __future__ import annotations

import hashlib
import shlex
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, count, tee
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, overload

import numpy as np

from piaa_sdk.adaptation import adapt, adaptation_of, judge
from piaa_sdk.bundle import EMBEDDED_FOLDER
from piaa_sdk.carried_person import CarriedPerson
from piaa_sdk.choices import Method
from piaa_sdk.devices import cpu_count, single_threaded_products
from piaa_sdk.engine import Engine, pictures_of, preview_space
from piaa_sdk.errors import (
    ImageError,
    ModelFormatError,
    ModelNotFoundError,
    ProfileError,
    ProfileFormatError,
    ProfileMismatchError,
    ProfileNotFoundError,
    RatingError,
)
from piaa_sdk.fine_tuned import (
    FINE_TUNED,
    FineTunedHead,
    FineTuneOptions,
    check_finetune,
    pack,
    unpack,
)
from piaa_sdk.head import PersonalHead
from piaa_sdk.hub import fetch, load_bundle, plan_upload, publish, save_bundle
from piaa_sdk.images import is_remote, load_image, printable
from piaa_sdk.manifest import BACKBONE_NAME, WEIGHTS_NAME
from piaa_sdk.profiles import (
    ProfileStore,
    UserProfile,
    check_model,
    check_network,
    check_same_ratings,
    check_scale,
    merge_ratings,
    other_ratings,
    portable_name,
    target_of_export,
    write_export,
)
from piaa_sdk.published_head import PublishedHead, load_published
from piaa_sdk.rating_scale import RatingScale
from piaa_sdk.ratings import Rating, choose_scale, collect_ratings
from piaa_sdk.results import Prediction, Score, SupportSet

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from piaa_sdk.array_types import FloatArray, ImageInput, PathInput
    from piaa_sdk.bundle import ModelBundle
    from piaa_sdk.hub import Published
    from piaa_sdk.hub_client import Token
    from piaa_sdk.pipeline import EmbeddedImage
    from piaa_sdk.ratings import RatingsInput
    from piaa_sdk.results import Adaptation, Comparison

KIND = "closed-form"
"""How the heads of this module are learned."""

_LARGEST_DIFFERENCE = 5e-3
"""Between torch and a graph whose embedding is rounded to float16, share of the scale."""

_PART = 64  # embeddings that are turned into scores at once in one thread


class Scorer:
    """Scores pictures, for nobody in particular or for one person.

    Make one with :meth:`from_pretrained`; :meth:`personalize` makes another one from it. A scorer is never
    changed, and may be shared between threads.

    Attributes:
        bundle: The model.
        user: Name of the person whose profile or published head is used; None without one.
        scale: Units of the scores: the person's own, else the bundle's.
        profile: The stored profile, None without one.
        support: What was learned from; None for the generic scorer, and for a published head.
        comparison: What fine-tuning was compared with, right after it was; else None.
    """

    def __init__(
        self,
        base: Engine,
        person: _Person | None = None,
        comparison: Comparison | None = None,
        access: _Access | None = None,
    ) -> None:
        self._base = base
        self._access = access or _Access()
        self._engine = base if person is None or person.engine is None else person.engine
        self._person = person
        self.bundle: ModelBundle = self._engine.bundle
        self.user: str | None = person.user if person else None
        self.scale: RatingScale = person.scale if person else base.bundle.rating_scale
        self.profile: UserProfile | None = person.profile if person else None
        self.support: SupportSet | None = person.support if person else None
        self.comparison = comparison

    @classmethod
    def from_pretrained(
        cls,
        model: PathInput | None = None,
        *,
        user: str | None = None,
        device: str = "auto",
        cache: bool | PathInput = True,
        workers: int | None = None,
        batch_size: int | None = None,
        previews: bool = False,
        variant: str | None = None,
        revision: str | None = None,
        cache_dir: PathInput | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: Token = None,
    ) -> Self:
        """Load a model, and a person's profile if one is named.

        From the Hub come only the files that scoring needs, into the Hub's own cache. What is there already
        is used without a network if ``revision`` is a commit; a branch is asked after once.

        Args:
            model: Folder of a bundle, or ``org/name`` or ``org/name@revision`` on the Hugging Face Hub, where
                a folder wins; None for the bundle that comes with the package.
            user: Name of a stored profile, or of a person whose head is published beside the bundle; the
                stored one wins if it fits, and if none does, the Hub is asked for that name.
            device: ``auto``, ``cpu``, ``cuda``, ``coreml`` or ``directml``.
            cache: Whether embeddings are kept on this machine, or the file to keep them in.
            workers: Threads that decode and infer; by default as many as there are cores.
            batch_size: Pictures that a thread takes at once; by default 8 on the CPU, 32 elsewhere.
            previews: Score a JPEG or HEIC by the preview in it, where that is of the frame as far as headers
                tell: faster, at scores that move a little. What is learned from is always read in full.
            variant: A lighter backbone that the bundle offers, for example ``quantized``.
            revision: Branch, tag or commit on the Hub; ``model`` is then a name there.
            cache_dir: Where the Hub's cache is; by default where the Hub's own settings say.
            force_download: Fetch anew what is in that cache already.
            local_files_only: Use what is in that cache and no network.
            token: Token for the Hub; None for the one that is stored there, False for none.

        Raises:
            ModelNotFoundError: There is no such bundle, or it is not in the cache and there is no network.
            ModelFormatError: The bundle is damaged or of a newer format.
            HubError: The Hub refuses or fails.
            ProfileNotFoundError: Nobody of that name is stored, or published beside the bundle.
            ProfileMismatchError: The profile was made for another bundle; the message says how to refit it.
            DeviceError: The device is not available.
        """
        bundle = load_bundle(
            model,
            revision=revision,
            variant=variant,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )
        engine = Engine(bundle, device, cache, workers, batch_size, previews=previews)
        person = None if user is None else _person(engine, user, token, local_files_only)
        return cls(engine, person, access=_Access(token, local_files_only))

    def for_user(self, user: str) -> Self:
        """Return the scorer of another person with the same model, which is not loaded again.

        Args:
            user: As for :meth:`from_pretrained`.

        Raises:
            ProfileNotFoundError: Nobody of that name is stored, or published beside the bundle.
            ProfileMismatchError: The profile was made for another bundle; the message says how to refit it.
        """
        person = _person(self._base, user, self._access.token, self._access.is_local)
        return type(self)(self._base, person, access=self._access)

    def carry(self) -> CarriedPerson | None:
        """Return what scoring for this person needs elsewhere, for :meth:`for_carried`; None without one."""
        person = self._person
        if person is None:
            return None
        graph = self.bundle.graph_source if isinstance(person.head, FineTunedHead) else b""
        assert isinstance(graph, bytes), "a network of one's own is no file"
        kind = FINE_TUNED if graph else KIND
        return CarriedPerson.of(person.user, kind, person.scale, person.head, graph)

    def for_carried(self, carried: CarriedPerson) -> Self:
        """Return the scorer of a person who was packed elsewhere by :meth:`carry`, with the same model.

        Raises:
            ProfileFormatError: What arrived is damaged, or does not fit the model.
        """
        engine = None
        head: PersonalHead | FineTunedHead
        if carried.has_network:
            graph, head = carried.network()
            engine = self._base.with_network(graph, head.prior)
        else:
            head = carried.head(self._base.prior)
        person = _Person(carried.user, carried.scale, None, head, None, engine)
        return type(self)(self._base, person, access=self._access)

    def __repr__(self) -> str:
        whose = f"user={self.user!r}" if self.user else "generic" if self._person is None else "personal"
        revision = self.bundle.bundle_revision[:12]
        return f"<Scorer {self.bundle.bundle_id} {revision}, {whose}, scale {self.scale}>"

    @property
    def device(self) -> str:
        """The device that pictures are embedded on."""
        return self._engine.backbone.device

    @cached_property
    def scorer_id(self) -> str:
        """Digest of all that decides the scores, hex: the model, the scale and what was learned."""
        digest = hashlib.blake2b(digest_size=16)
        embeddings = self.bundle.embedding_id
        if self._engine.previews:
            embeddings = preview_space(embeddings)
        digest.update(f"{self.bundle.bundle_revision} {embeddings} {self.scale}".encode())
        head = None if self._person is None else self._person.head
        tensors = {} if head is None else head.to_tensors()
        if isinstance(head, PersonalHead):
            tensors["embeddings"] = head.embeddings
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
            digest.update(np.ascontiguousarray(tensor).tobytes())
        return digest.hexdigest()

    @cached_property
    def adaptation(self) -> Adaptation | None:
        """What left-out ratings say about the personal head; None without the ratings it was learned from."""
        if self._person is None or self._person.support is None:
            return None
        if self._person.profile is not None and self._person.profile.adaptation is not None:
            return self._person.profile.adaptation
        if isinstance(self._person.head, FineTunedHead):  # it has seen these ratings: nothing can be judged
            return None if self.comparison is None else adaptation_of(self.comparison)
        return judge(self._engine.prior, self._person.support)

    def score(self, images: ImageInput | Iterable[ImageInput]) -> list[Score]:
        """Score pictures.

        Args:
            images: A picture, a folder of pictures, the address of either (``s3://bucket/folder/``,
                ``https://host/a.jpg``; extra ``remote``), or any iterable of them.

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
        for (score,) in score_each([self], images):
            yield score

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
        return self._predicted(embeddings, self._engine.prior.raw(embeddings))

    def _predicted(self, embeddings: FloatArray, raw: FloatArray) -> Prediction:
        """Score embeddings, (N, D), of which the sums of the generic head, (N,), are known."""
        person, scale = self._person, self.scale
        generic = None
        if person is None or person.engine is None:
            generic = scale.from_unit(self._engine.prior.generic_of(raw))
        if person is None:
            return Prediction(generic)
        mean, std, latent_std = person.head.predict(embeddings, raw)
        return Prediction(
            generic,
            scale.from_unit(mean),
            std * scale.span,
            None if latent_std is None else latent_std * scale.span,
        )

    def personalize(
        self,
        ratings: RatingsInput,
        *,
        user: str | None = None,
        scale: tuple[float, float] | RatingScale | None = None,
        photos: PathInput | None = None,
        add: bool = False,
        replace: bool = False,
        method: Method | str = Method.CLOSED_FORM,
        options: FineTuneOptions | None = None,
    ) -> Self:
        """Learn one person's taste from rated pictures.

        Args:
            ratings: A mapping or (picture, rating) pairs, a CSV file, or a data frame.
            user: Name to store the profile under; None stores nothing.
            scale: The ends of the person's scale; None recognizes the smallest common one.
            photos: Folder that paths are relative to.
            add: Learn from the stored ratings of ``user`` and these together.
            replace: Forget the stored ratings of ``user``; a backup of them is kept.
            method: ``closed-form``; ``finetune``, which tunes the whole network (eqs. 9 to 11 of BLG-PIAA) in
                minutes; or ``auto``, which keeps that only where left-out ratings prove it better.
            options: Of fine-tuning.

        Returns:
            A new Scorer for this person.

        Raises:
            MissingDependencyError: Fine-tuning without the extra ``finetune``.
            DivergenceError, DeviceError: Fine-tuning at too high a rate; without enough memory or the device.
            ModelFormatError, HubError: The network that should be tuned is not whole, or cannot be fetched.
            ProfileMismatchError: What is stored was learned in another way, or its pictures cannot be read.
            RatingError: Ratings that cannot be understood, or a rated picture that cannot be read; named.
            SupportSetError: Too few ratings, or all equal.
            ProfileExistsError: Other ratings are stored under that name, and neither ``add`` nor ``replace``.
            ProfileNotFoundError: Nobody of that name is stored to add to.
        """
        method = _checked(Method(method), user, add=add, replace=replace)
        rows = collect_ratings(ratings, photos=photos).of_user(user)
        stored = _stored(user, add=add, replace=replace)
        known = None if replace else stored
        if known is not None:
            check_scale(known, None if scale is None else RatingScale(*_ends(scale)))
        backup = stored is not None and replace
        if known is not None and add and method is not Method.CLOSED_FORM:
            rows = _with_stored(rows, known)
        images = _names(rows, known)
        values: FloatArray = np.array([row.rating for row in rows], dtype=np.float64)
        own_scale = choose_scale(rows, scale if known is None else known.scale)
        if known is not None and not add:
            self._check_same(known, rows, images, values)
        if method is not Method.CLOSED_FORM:
            return self._tuned(user, own_scale, rows, method, options or FineTuneOptions(), backup=backup)
        if known is not None and add:
            check_model(known, self._base.bundle, kind=KIND, only_embeddings=True)
        embeddings = self._embed_rated(rows)
        if known is not None and (add or not _have_names(rows)):
            images, values, embeddings = _merged(known, images, values, embeddings, add=add)
        return self._learned(user, own_scale, images, values, embeddings, backup=backup)

    def _check_same(
        self, known: UserProfile, rows: Sequence[Rating], images: tuple[str, ...], values: FloatArray
    ) -> None:
        """Refuse to put other ratings in the place of stored ones unasked.

        Raises:
            ProfileExistsError: They are others.
        """
        if _have_names(rows):
            check_same_ratings(known, images, values)
        elif known.embedding_id != self._base.bundle.embedding_id:
            raise other_ratings(known)  # pictures without names are recognized by their embeddings
        else:
            _merged(known, images, values, self._embed_rated(rows), add=False)

    def refit(self, user: str) -> Self:
        """Learn a stored profile again, with this model, in closed form; a network is kept as a backup.

        The stored embeddings are used if this model makes the same ones; else the rated pictures are read
        again from where they were.

        Raises:
            ProfileNotFoundError: Nobody of that name is stored.
            ProfileMismatchError: The pictures have to be read again, and one cannot be.
        """
        profile = ProfileStore().load(user)
        embeddings = profile.support.embeddings
        if profile.embedding_id != self._base.bundle.embedding_id:
            _check_places(profile)
            embeddings = np.stack(
                [
                    _rated_embedding(profile, item)
                    for item in self._base.embed(profile.support.images, expand=False, in_full=True)
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
        elif isinstance(self._person.head, FineTunedHead):
            own = self._person.head
            graph = scoring_graph(self.bundle, own.prior, self.scale, kind=FINE_TUNED, std=own.std)
        else:
            graph = scoring_graph(self.bundle, self._person.head, self.scale, kind=KIND)
        write_export(target, encoded(graph))
        return target

    def save_pretrained(self, save_directory: PathInput) -> Path:
        """Copy the model into a folder that :meth:`from_pretrained` reads, whole or not at all.

        The person is not in it; that is what ``piaa users export`` and :meth:`push_to_hub` are for.

        Args:
            save_directory: Where to; must not be there yet, or be empty.

        Returns:
            The folder.

        Raises:
            OutputError: Something is there already, or it cannot be written.
            ModelFormatError: A file of the model is damaged.
            HubError: A file that scoring does not need has to be fetched first, and the Hub refuses or fails.
        """
        return save_bundle(
            self._base.bundle, save_directory, token=self._access.token, is_local=self._access.is_local
        )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool | None = None,
        token: Token = None,
        revision: str | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
        tag: str | None = None,
    ) -> Published:
        """Put the model on the Hugging Face Hub, and a personal scorer's person with it, in one commit.

        Of a person go up the name, the head and the embeddings of the rated photos: no ratings, no names and
        no thumbnails. ``disclosed`` of the answer lists what that tells. Others then load it with ``user=``.

        Args:
            repo_id: ``org/name``; made if it is not there.
            commit_message: First line of the commit.
            private: Whether only its owners may read a repository that is made; None for yes. A person goes
                into a public repository only if this is False.
            token: Token for the Hub; None for the one that is stored there.
            revision: Branch, made if it is not there; None for ``main``.
            branch: The same, as other libraries call it.
            create_pr: Open a pull request instead of changing the branch.
            tag: Name to give the commit, for example ``v1``.

        Returns:
            Where it can be seen (also ``str()`` of it), the commit, the files and what they disclose.

        Raises:
            HubError: The Hub refuses or fails, or a person would become public unasked.
            ProfileError: The scorer was personalized without ``user=``, so the person has no name.
            ModelNotFoundError: ``repo_id`` cannot be a name on the Hub.
            ModelFormatError: The bundle lists files of a kind that is never published.
            ValueError: ``revision`` and ``branch`` differ, or a tag for a pull request.
        """
        if revision is not None and branch is not None and revision != branch:
            raise ValueError(f"revision={revision!r} and branch={branch!r} are one thing; give one of them")
        head = None if self._person is None else self._to_publish(self._person)
        heads, disclosed = ({}, ()) if head is None else (head.files(), head.disclosed)
        return publish(
            plan_upload(fetch(self.bundle, token=token), heads, disclosed),
            repo_id,
            private=private,
            revision=branch if revision is None else revision,
            create_pr=bool(create_pr),
            tag=tag,
            commit_message=commit_message,
            token=token,
        )

    def _to_publish(self, person: _Person) -> PublishedHead:
        if self.user is None:
            raise ProfileError("the person has no name to publish under; personalize with user=")
        if isinstance(person.head, FineTunedHead):
            raise ProfileError(
                f"{self.user!r} has a network of their own, which is no head of this bundle; give it "
                "away as a file (piaa users export), or publish what --method closed-form learns"
            )
        return PublishedHead.of(self.user, KIND, self.scale, self.bundle, person.head)

    def _learned(
        self,
        user: str | None,
        scale: RatingScale,
        images: tuple[str, ...],
        ratings: FloatArray,
        embeddings: FloatArray,
        *,
        backup: bool = False,
        comparison: Comparison | None = None,
    ) -> Self:
        support = SupportSet(embeddings, scale.to_unit(ratings), images)
        head = adapt(self._base.prior, support)
        if user is None:
            return type(self)(self._base, _Person(None, scale, support, head, None), comparison, self._access)
        bundle = self._base.bundle
        profile = UserProfile(
            user=user,
            kind=KIND,
            scale=scale,
            bundle_id=bundle.bundle_id,
            bundle_revision=bundle.bundle_revision,
            embedding_id=bundle.embedding_id,
            head=head.to_tensors(),
            support=support,
            ratings=ratings,
            adaptation=judge(self._base.prior, support),
        )
        ProfileStore().save(profile, backup=backup)
        return type(self)(
            self._base, _Person(profile.user, scale, support, head, profile), comparison, self._access
        )

    def _tuned(
        self,
        user: str | None,
        scale: RatingScale,
        rows: Sequence[Rating],
        method: Method,
        options: FineTuneOptions,
        *,
        backup: bool,
    ) -> Self:
        """Fine-tune the network to these ratings, and keep it if ``method`` says so."""
        from piaa_sdk.finetune.person import PersonFit

        images = _names(rows, None)
        ratings: FloatArray = np.array([row.rating for row in rows], dtype=np.float64)
        embeddings = self._embed_rated(rows)
        support = SupportSet(embeddings, scale.to_unit(ratings), images)
        bundle = self._base.bundle
        # A variant's graph is lighter; what is tuned is the graph that the bundle was made with.
        needed = [name for name in (WEIGHTS_NAME, BACKBONE_NAME) if name in bundle.checksums]
        if not set(needed) <= bundle.checked:
            bundle = fetch(bundle, needed, token=self._access.token, is_local=self._access.is_local)
        pixels = np.stack([load_image(row.image, bundle.preprocessing) for row in rows])
        fit = PersonFit(bundle, self._base.prior, pixels, support.ratings, options, self._base.asked_device)
        comparison = fit.compare(embeddings)
        if method is Method.AUTO and comparison.recommended is Method.CLOSED_FORM:
            return self._learned(
                user, scale, images, ratings, embeddings, backup=backup, comparison=comparison
            )
        tuned = fit.tune(comparison.std)
        engine = self._base.with_network(tuned.graph, tuned.head.prior)
        own = self._embed_rated(rows, engine)
        _check_same_scores(tuned.head.predict(own)[0], tuned.scores)
        support = SupportSet(own, support.ratings, images)
        if user is None:
            return type(self)(self._base, _Person(None, scale, support, tuned.head, None, engine), comparison)
        profile = UserProfile(
            user=user,
            kind=FINE_TUNED,
            scale=scale,
            bundle_id=bundle.bundle_id,
            bundle_revision=bundle.bundle_revision,
            embedding_id=engine.bundle.embedding_id,
            head=pack(tuned.graph, tuned.head),
            support=support,
            ratings=ratings,
            adaptation=adaptation_of(comparison),
        )
        ProfileStore().save(profile, backup=backup)
        person = _Person(profile.user, scale, support, tuned.head, profile, engine)
        return type(self)(self._base, person, comparison, self._access)

    def _embed_rated(self, rows: Sequence[Rating], engine: Engine | None = None) -> FloatArray:
        embeddings = []
        engine = self._base if engine is None else engine
        results = engine.embed([row.image for row in rows], expand=False, in_full=True)
        for row, embedded in zip(rows, results, strict=True):
            if embedded.error is not None:
                reason = printable(embedded.error.reason)
                raise RatingError(
                    f"{row.where}: {printable(row.name)}: {reason}; leave the row out or mend the file"
                ) from embedded.error
            embeddings.append(_embedding(embedded))
        return np.stack(embeddings)

    def _scores(self, read: _Read) -> Iterator[Score]:
        """Score pictures that were read together."""
        if read.embeddings is None or read.raw is None:
            yield from (Score(item.source, self.user, error=item.error) for item in read.items)
            return
        prediction = self._predicted(read.embeddings, read.raw)
        stars = self.scale.stars
        columns = [
            [None] * len(read.embeddings) if values is None else values.tolist()
            for values in (prediction.generic, prediction.personal, prediction.std, prediction.latent_std)
        ]
        rows = zip(*columns, prediction.value.tolist(), strict=True)
        for item in read.items:
            if item.embedding is None:
                yield Score(item.source, self.user, error=item.error)
                continue
            generic, personal, std, latent_std, value = next(rows)
            yield Score(item.source, self.user, generic, personal, std, latent_std, stars(value))


def score_each(
    scorers: Sequence[Scorer], images: ImageInput | Iterable[ImageInput | ImageError]
) -> Iterator[tuple[Score, ...]]:
    """Score pictures for several persons in one pass: each picture is opened and embedded once.

    Scorers of one model share its network when they come from one another, by :meth:`Scorer.for_user`. A
    network of a person's own reads the pictures once more.

    Args:
        scorers: One for each person; at least one.
        images: As for :meth:`Scorer.iter_scores`.

    Returns:
        An iterator in the order of the input: for each picture one Score of each scorer, in their order.
        Closing it stops the work.

    Raises:
        ValueError: There is no scorer.
    """
    if not scorers:
        raise ValueError("score_each needs at least one scorer")
    engines = list(dict.fromkeys(scorer._engine for scorer in scorers))
    branches = tee(pictures_of(images), len(engines))
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(cpu_count(), thread_name_prefix="piaa-head"))
        streams = [
            stack.enter_context(closing(engine.embed_groups(branch)))
            for engine, branch in zip(engines, branches, strict=True)
        ]
        for rows in _matched(streams):
            yield from _scores_of(scorers, engines, rows, threads)


def _matched(streams: Sequence[Iterator[list[EmbeddedImage]]]) -> Iterator[list[tuple[EmbeddedImage, ...]]]:
    """Yield the pictures that every stream has given out, in their order, as many at a time as there are.

    An exception of one stream is raised after what all of them had given out before.
    """
    queues: list[deque[EmbeddedImage]] = [deque() for _ in streams]
    failure: Exception | None = None
    while True:
        for queue, stream in zip(queues, streams, strict=True):
            if not queue:
                try:
                    queue.extend(next(stream, ()))
                except Exception as error:  # noqa: BLE001 - raised below, when the rest is out
                    failure = failure or error
        count = min(map(len, queues))
        if not count:
            if failure is not None:
                raise failure
            return
        yield list(zip(*([queue.popleft() for _ in range(count)] for queue in queues), strict=True))


def _scores_of(
    scorers: Sequence[Scorer],
    engines: Sequence[Engine],
    rows: Sequence[tuple[EmbeddedImage, ...]],
    threads: ThreadPoolExecutor,
) -> list[tuple[Score, ...]]:
    """Score pictures, each of which every engine has embedded, on all cores if they are many."""

    def scored(part: Sequence[tuple[EmbeddedImage, ...]]) -> list[tuple[Score, ...]]:
        columns = zip(engines, zip(*part, strict=True), strict=True)
        read = {engine: _Read.of(engine, items) for engine, items in columns}
        return list(zip(*(scorer._scores(read[scorer._engine]) for scorer in scorers), strict=True))

    parts = [rows[start : start + _PART] for start in range(0, len(rows), _PART)]
    with single_threaded_products:
        return list(chain.from_iterable((threads.map if len(parts) > 1 else map)(scored, parts)))


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """Pictures that one network has embedded, and what all persons share of the work on them.

    ``embeddings``, (N, D), and the sums of the generic head, ``raw`` (N,), are those of the pictures that
    could be read; None if none could.
    """

    items: Sequence[EmbeddedImage]
    embeddings: FloatArray | None
    raw: FloatArray | None

    @classmethod
    def of(cls, engine: Engine, items: Sequence[EmbeddedImage]) -> _Read:
        readable = [item.embedding for item in items if item.embedding is not None]
        if not readable:
            return cls(items, None, None)
        embeddings = np.stack(readable)
        return cls(items, embeddings, engine.prior.raw(embeddings))


@dataclass(frozen=True, slots=True)
class _Access:
    """How more files of the bundle may be fetched: as the first ones were."""

    token: Token = field(default=None, repr=False)
    is_local: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Person:
    """Whose taste a scorer has learned; ``user`` only if stored or published, ``support`` if at hand."""

    user: str | None
    scale: RatingScale
    support: SupportSet | None
    head: PersonalHead | FineTunedHead
    profile: UserProfile | None
    engine: Engine | None = None  # of a network of their own


def _person(engine: Engine, user: str, token: Token, is_local: bool) -> _Person:
    """Find a person: stored on this machine and fitting the bundle, else published beside it."""
    store, bundle = ProfileStore(), engine.bundle
    try:
        profile = store.load(user)
        if profile.kind == FINE_TUNED:
            return _tuned_person(engine, profile)
        check_model(profile, bundle, kind=KIND)
        head = PersonalHead.from_tensors(engine.prior, profile.support.embeddings, profile.head)
        return _Person(profile.user, profile.scale, profile.support, head, profile)
    except (ProfileNotFoundError, ProfileMismatchError) as error:
        stored_error = error
    try:
        published = load_published(bundle, user, kind=KIND, token=token, is_local=is_local)
        return _Person(published.user, published.scale, None, published.head(engine.prior), None)
    except (ProfileNotFoundError, ModelNotFoundError) as error:
        if isinstance(stored_error, ProfileMismatchError):
            raise stored_error from error
        if bundle.folder == EMBEDDED_FOLDER:
            raise stored_error from None
        where = printable(str(store.folder))
        raise ProfileNotFoundError(f"{stored_error} (looked in {where}); {error}") from error


def _checked(method: Method, user: str | None, *, add: bool, replace: bool) -> Method:
    """Refuse choices that contradict each other, and a method that lacks its packages."""
    if add and replace:
        raise ValueError("add to the stored ratings or replace them, not both")
    if (add or replace) and user is None:
        raise ValueError("add and replace are about a stored profile; name it with user=")
    if method is not Method.CLOSED_FORM:
        check_finetune()
    return method


def _have_names(rows: Sequence[Rating]) -> bool:
    return all(isinstance(row.image, str) for row in rows)


def _merged(
    known: UserProfile, images: tuple[str, ...], values: FloatArray, embeddings: FloatArray, *, add: bool
) -> tuple[tuple[str, ...], FloatArray, FloatArray]:
    """Join ratings with the stored ones; without ``add`` they must be the same."""
    merged = merge_ratings(known, images, values, embeddings)
    if add:
        return merged.images, merged.ratings, merged.embeddings
    if merged.added or merged.changed or len(images) != len(known.support):
        raise other_ratings(known)
    return known.support.images, merged.ratings, merged.embeddings


def _tuned_person(base: Engine, profile: UserProfile) -> _Person:
    """Open a person's own network."""
    try:
        graph, head = unpack(profile.head)
    except ModelFormatError as error:
        raise ProfileFormatError(
            f"the stored network of {printable(profile.user)!r} is damaged ({error}); personalize again with "
            "--method finetune --replace"
        ) from error
    check_network(profile, base.bundle.with_graph(graph, head.prior.embedding_dim))
    engine = base.with_network(graph, head.prior)
    return _Person(profile.user, profile.scale, profile.support, head, profile, engine)


def _with_stored(rows: Sequence[Rating], known: UserProfile) -> tuple[Rating, ...]:
    """Return the stored ratings, their pictures to be read again, and new ones, which win."""
    _check_places(known, "its pictures must be read again")
    given = {row.name for row in rows if isinstance(row.image, str)}
    stored = [
        Rating(name, float(rating), None, "stored ratings", name)
        for name, rating in zip(known.support.images, known.ratings, strict=True)
        if name not in given
    ]
    return (*stored, *rows)


def _check_same_scores(found: FloatArray, expected: FloatArray) -> None:
    """Refuse a graph that does not say what the network says."""
    difference, largest = float(np.abs(found - expected).max()), float(np.abs(expected).max())
    if difference < _LARGEST_DIFFERENCE * max(1.0, largest):
        return
    raise ModelFormatError(
        f"the fine-tuned network and its graph score the rated photos differently, by {difference:.2g} of "
        "the scale; nothing was stored. If a learning rate was stated, lower it; else report this with the "
        "versions of torch and onnx"
    )


def _embedding(embedded: EmbeddedImage) -> FloatArray:
    if embedded.embedding is None:
        raise embedded.error or ImageError(embedded.source, "cannot be read")
    return embedded.embedding


def _check_places(
    profile: UserProfile, why: str = "was learned with a model that sees pictures in another way"
) -> None:
    """Refuse names without folders, as an imported profile has: another picture may be called the same."""
    method = " --method finetune" if profile.kind == FINE_TUNED else ""
    user = shlex.quote(profile.user)
    unknown = [name for name in profile.support.images if not (is_remote(name) or Path(name).is_absolute())]
    if unknown:
        raise ProfileMismatchError(
            f"{printable(profile.user)!r}: {why}, and "
            f"where the rated picture {printable(unknown[0])} lies is not known; personalize anew with: "
            f"piaa personalize ratings.csv --user {user} --photos FOLDER --replace{method}"
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


def _with_percentile(score: Score, percentile: float) -> Score:
    figures: dict[str, Any] = {name: getattr(score, name) for name in Score.__slots__}
    return Score(**{**figures, "percentile": percentile})
