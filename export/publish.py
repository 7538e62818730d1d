"""Put a bundle that has passed its check on the Hugging Face Hub, with the people who asked to be in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from export.check_record import read_passed
from piaa_sdk.bundle import ModelBundle
from piaa_sdk.errors import ProfileError, ProfileMismatchError
from piaa_sdk.head import PersonalHead, Prior
from piaa_sdk.hub import Upload, plan_upload
from piaa_sdk.profiles import ProfileStore, check_model
from piaa_sdk.published_head import PublishedHead
from piaa_sdk.scorer import KIND
from piaa_sdk.terminal import size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be published.

    Attributes:
        upload: The files, and what they disclose of people.
        check: The record of the check that the bundle has passed.
    """

    upload: Upload
    check: dict[str, Any]


def make_plan(folder: Path, users: Sequence[str] = ()) -> Plan:
    """Read a bundle whole, see that it has passed its check, and choose what goes up.

    Args:
        folder: Of the bundle.
        users: Names of stored profiles whose heads shall go up too.

    Raises:
        ModelNotFoundError: ``folder`` is no bundle.
        ModelFormatError: A file is damaged, or of a kind that is never published.
        CheckRecordError: It has not passed its check as it is now.
        ProfileNotFoundError: Nobody of that name is stored.
        ProfileMismatchError: A profile was learned with another bundle.
        ProfileError: Two names share one place.
    """
    bundle = ModelBundle.load(folder)
    check = read_passed(folder, bundle.bundle_revision)
    heads: dict[str, bytes] = {}
    disclosed: list[str] = []
    prior = Prior.load(bundle.prior_path) if users else None
    for user in dict.fromkeys(users):
        profile = ProfileStore().load(user)
        if profile.kind != KIND:
            raise ProfileMismatchError(
                f"{profile.user!r} was learned as {profile.kind!r}; only heads learned as {KIND!r} are "
                "published: personalize with --method closed-form first"
            )
        check_model(profile, bundle, kind=KIND)
        assert prior is not None
        head = PersonalHead.from_tensors(prior, profile.support.embeddings, profile.head)
        published = PublishedHead.of(profile.user, profile.kind, profile.scale, bundle, head)
        files = published.files()
        if files.keys() & heads.keys():
            raise ProfileError(
                f"{profile.user!r} and another name given share the place heads/{published.folder}; "
                "publish one of them"
            )
        heads |= files
        disclosed += published.disclosed
    return Plan(plan_upload(bundle, heads, disclosed), check)


def describe(plan: Plan) -> Iterator[str]:
    """Say what would go up: each file with its size, the sum, and what it tells about people."""
    sizes = plan.upload.sizes
    bundle = plan.upload.bundle
    width = max(map(len, sizes))
    for name, count in sizes.items():
        yield f"  {name:{width}}  {size(count):>10}"
    yield (
        f"{bundle.bundle_id} {bundle.bundle_revision[:12]}, licence {bundle.license}: {len(sizes)} files, "
        f"{size(sum(sizes.values()))}, in one commit"
    )
    if plan.upload.disclosed:
        yield "whoever may read the repository learns:"
        yield from (f"  - {line}" for line in plan.upload.disclosed)
