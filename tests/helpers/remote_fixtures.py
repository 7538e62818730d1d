"""What tests of pictures elsewhere need: servers on this machine, and clients that know no other."""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING

import pytest
from storage_standin import BucketStandIn, GoogleStandIn, WebStandIn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clients without any setting or connection of another test; none is left open."""
    from piaa_sdk.images import forget_clients

    for name in [
        name for name in os.environ if name.startswith(("AWS_", "FSSPEC_")) or "_proxy" in name.lower()
    ]:
        monkeypatch.delenv(name)
    nowhere = str(tmp_path / "nowhere")
    (tmp_path / "netrc").touch()
    settings = {
        "NO_PROXY": "*",
        "NETRC": str(tmp_path / "netrc"),
        "AWS_CONFIG_FILE": nowhere,
        "AWS_SHARED_CREDENTIALS_FILE": nowhere,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("piaa_sdk.images.remote.SECONDS_BEFORE_RETRIES", (0.01, 0.01))
    forget_clients()
    yield
    forget_clients()
    gc.collect()  # a connection that was left open says so now


@pytest.fixture
def web(clients: None) -> Iterator[WebStandIn]:
    """A web server that knows no file yet."""
    with WebStandIn() as server:
        yield server


@pytest.fixture
def bucket(clients: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[BucketStandIn]:
    """S3 with pages of three entries, and credentials that it does not look at."""
    with BucketStandIn(page=3) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        yield server


@pytest.fixture
def google(clients: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[GoogleStandIn]:
    """Google's store with pages of three entries, asked without credentials."""
    from fsspec.config import conf

    with GoogleStandIn(page=3) as server:
        monkeypatch.setitem(conf, "gs", {"endpoint_url": server.url, "token": "anon"})
        yield server
