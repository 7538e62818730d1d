"""What goes wrong between here and the Hub: tried again where it helps, else an error that helps."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
import traceback
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from huggingface_hub.utils import are_progress_bars_disabled

from piaa_sdk import PiaaWarning
from piaa_sdk.errors import HubError, ModelFormatError, ModelNotFoundError, PiaaError
from piaa_sdk.hub import load_bundle, plan_upload, publish
from piaa_sdk.hub_client import _quiet

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

REPO = "org/tiny"
BACKBONE = "/storage/"  # where files of LFS come from


@pytest.mark.parametrize("code", [401, 403])
@pytest.mark.usefixtures("published")
def test_refused_says_how_to_log_in(hub: Any, faults: Any, code: int) -> None:
    hub.fail(faults.status(code))
    with pytest.raises(HubError, match=rf"may not be read .*\({code}\).*hf auth login.*token="):
        load_bundle(REPO)


@pytest.mark.usefixtures("published")
def test_a_gated_model_says_whom_to_ask(hub: Any, faults: Any) -> None:
    hub.fail(faults.status(403, X_Error_Code="GatedRepo"))
    with pytest.raises(HubError, match=r"ask for access on .*/org/tiny and log in"):
        load_bundle(REPO)


def test_what_is_not_there_may_be_private_or_misspelt(hub: Any, published: str) -> None:
    with pytest.raises(
        ModelNotFoundError, match=r"no folder 'org/tyni' here, .* private: check the spelling"
    ):
        load_bundle("org/tyni")
    with pytest.raises(ModelNotFoundError, match="org/tiny has no revision 'v9'"):
        load_bundle("org/tiny@v9")
    with pytest.raises(ModelNotFoundError, match="org/tiny has no revision"):
        load_bundle(f"org/tiny@{'0' * 40}")
    hub.repositories["org/bare"] = hub.repositories[REPO]
    hub.fail(lambda handler: handler.answer(404, b"what?") is None, path="org/bare")
    with pytest.raises(ModelNotFoundError, match="no folder 'org/bare' here, and the Hub has no model"):
        load_bundle("org/bare")
    assert published


def test_a_token_opens_what_is_private_and_goes_to_the_hub_alone(
    hub: Any, faults: Any, published: str
) -> None:
    hub.repositories[REPO].private = True
    with pytest.raises(ModelNotFoundError, match="hf auth login"):
        load_bundle(REPO)
    hub.requests.clear()
    assert load_bundle(REPO, token=faults.TOKEN).origin == f"{REPO}@{published}"
    assert {one.token for one in hub.asked(path="/resolve/")} == {faults.TOKEN}
    assert {one.token for one in hub.asked(path="/storage/")} == {None}


def test_the_stored_token_is_used(
    hub: Any, faults: Any, published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories[REPO].private = True
    monkeypatch.setenv("HF_TOKEN", faults.TOKEN)
    assert load_bundle(REPO).origin == f"{REPO}@{published}"
    with pytest.raises(ModelNotFoundError):
        load_bundle(REPO, token=False, force_download=True)


@pytest.mark.parametrize("path", ["config.json", "prior.safetensors"])
@pytest.mark.usefixtures("published")
def test_a_rate_limit_is_said_at_once_and_not_sat_out(hub: Any, faults: Any, path: str) -> None:
    hub.fail(faults.status(429, Retry_After="297"), path=path)
    started = time.monotonic()
    with pytest.raises(HubError, match=r"fewer requests \(429\): try again in 297 seconds"):
        load_bundle(REPO)
    assert time.monotonic() - started < 5


def test_a_rate_limit_does_not_keep_from_what_is_here(hub: Any, faults: Any, published: str) -> None:
    load_bundle(REPO)
    hub.fail(faults.status(429, ratelimit='"api";r=0;t=55'))
    with pytest.warns(PiaaWarning, match="55 seconds.*Using the copy"):
        assert load_bundle(REPO).origin == f"{REPO}@{published}"


@pytest.mark.parametrize("path", ["config.json", "prior.safetensors", BACKBONE])
@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_hub_that_fails_a_few_times_is_asked_again(
    hub: Any, faults: Any, published: str, path: str, method: str
) -> None:
    hub.fail(faults.status(500), path=path, method=method, times=2)
    assert load_bundle(REPO).origin == f"{REPO}@{published}"


@pytest.mark.usefixtures("published")
def test_a_hub_that_keeps_failing_is_an_error(hub: Any, faults: Any) -> None:
    hub.fail(faults.status(503), path="prior.safetensors")
    with pytest.raises(HubError, match=r"the Hub failed 4 times in a row \(503\); try again later"):
        load_bundle(REPO)
    assert len(hub.asked(path="prior.safetensors")) == 4


def test_a_connection_that_breaks_is_taken_up_where_it_broke(
    hub: Any, faults: Any, published: str, bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100)
    hub.fail(faults.cut_after(700), path=BACKBONE, method="GET", times=2)
    bundle = load_bundle(REPO)
    assert bundle.origin == f"{REPO}@{published}"
    assert bundle.backbone_path.read_bytes() == (bundle_folder / "onnx" / "backbone.onnx").read_bytes()
    assert {one.range for one in hub.asked(path=BACKBONE)} >= {"bytes=700-"}


@pytest.mark.usefixtures("published")
def test_a_hub_that_hangs_up_is_an_error(hub: Any, faults: Any) -> None:
    hub.fail(faults.hang_up)
    with pytest.raises(ModelNotFoundError, match=r"config\.json is not in the cache.*piaa model download"):
        load_bundle(REPO)
    assert len(hub.requests) == 4


@pytest.mark.usefixtures("published")
def test_a_file_that_ends_too_early_is_an_error(hub: Any, faults: Any, client: Path) -> None:
    hub.fail(faults.shortened, path=BACKBONE, method="GET")
    with pytest.raises(HubError, match="Consistency check failed"):
        load_bundle(REPO)
    assert not list(client.glob("*/snapshots/*/onnx/backbone.onnx"))
    hub.faults.clear()
    load_bundle(REPO)


def test_a_file_that_was_damaged_on_the_way_is_found(hub: Any, faults: Any, published: str) -> None:
    hub.fail(faults.damaged, path=BACKBONE, method="GET")
    with pytest.raises(ModelFormatError, match=r"damaged.*--force"):
        load_bundle(REPO)
    hub.faults.clear()
    assert load_bundle(REPO, force_download=True).origin == f"{REPO}@{published}"


@pytest.mark.usefixtures("published")
def test_a_hub_that_is_too_slow_is_not_waited_for(
    hub: Any, faults: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 0.2)
    hub.fail(faults.slow(1.0), path="config.json", method="HEAD")
    with pytest.raises(ModelNotFoundError, match=r"config\.json is not in the cache .* cannot be reached"):
        load_bundle(REPO)
    hub.faults.clear()
    hub.fail(faults.slow(0.05))
    load_bundle(REPO)


def redirected(location: str) -> Callable[[Any], Any]:
    return lambda faults: faults.status(302, Location=location)


def answered_with(code: int, content: Any) -> Callable[[Any], Any]:
    return lambda handler: handler.answer(code, content) is None


def answered(content: Any, **headers: str) -> Callable[[Any], Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: lambda handler: handler.answer(200, content, named) is None


NONSENSE: dict[str, Callable[[Any], Any]] = {
    "400": lambda faults: faults.status(400),
    "404": lambda faults: faults.status(404),
    "418": lambda faults: faults.status(418),
    "500": lambda faults: faults.status(500),
    "redirected to nowhere": redirected("/nowhere"),
    "redirected to nonsense": redirected("http://[broken"),
    "hung up": lambda faults: faults.hang_up,
    "cut": lambda faults: faults.cut_after(3),
    "no HTTP": lambda _: lambda handler: handler.wfile.write(b"what?\r\n\r\n") > 0,
    "no JSON": answered(b"<html>"),
    "a list": answered([]),
    "the token told back": lambda faults: answered_with(400, {"error": f"Bearer {faults.TOKEN} is odd"}),
    "no commit": answered({}, X_Repo_Commit="../.."),
}


def fails_as_ours(work: Callable[[], object], token: str) -> bool:
    """Do what fails; what it raises must be ours, with no token in its whole traceback."""
    try:
        work()
    except PiaaError as error:
        return token not in "".join(traceback.format_exception(error))
    return False


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_nothing_of_the_client_escapes_a_download(
    hub: Any, faults: Any, published: str, nonsense: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    for number, place in enumerate(("/resolve/", "prior", "/storage/")):
        if (nonsense, place) == ("cut", "prior"):
            continue  # it is sent on to the storage, so there is nothing in the answer to cut
        hub.faults.clear()
        hub.fail(NONSENSE[nonsense](faults), path=place)
        for model in (REPO, f"{REPO}@{published}"):
            cache = tmp_path / f"{number}-{len(model)}"
            assert fails_as_ours(
                lambda model=model, cache=cache: load_bundle(model, token=faults.TOKEN, cache_dir=cache),
                faults.TOKEN,
            ), (place, model)
            assert hub.faults[0].times < 10_000


@pytest.mark.parametrize(
    "nonsense",
    ["404", "500", "redirected to nonsense", "hung up", "cut", "no JSON", "a list", "the token told back"],
)
def test_nothing_of_the_client_escapes_an_upload(
    hub: Any, faults: Any, bundle_folder: Path, nonsense: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    upload = plan_upload(load_bundle(bundle_folder))
    hub.put("org/old", {"README.md": b""})
    for place in ("create", "/preupload/", "batch", "/storage/", "/commit/", "/refs", "/tag/"):
        hub.faults.clear()
        hub.objects.clear()
        hub.fail(NONSENSE[nonsense](faults), path=place)
        repo = "org/old" if place == "/refs" else f"org/{place.strip('/')}"
        assert fails_as_ours(
            lambda repo=repo: publish(upload, repo, token=faults.TOKEN, tag="v1", revision="next"),
            faults.TOKEN,
        ), place
        assert hub.faults[0].times < 10_000


def test_the_check_for_tokens_can_fail() -> None:
    def tell() -> None:
        raise HubError("hf_abc")

    assert fails_as_ours(tell, "hf_xyz")
    assert not fails_as_ours(tell, "hf_abc")
    assert not fails_as_ours(lambda: None, "hf_abc")


@pytest.mark.parametrize("token", ["hf_secretOfAPerson", "secret-of-a-mirror"])
@pytest.mark.parametrize("how", ["given", "in the environment", "stored"])
@pytest.mark.usefixtures("published")
def test_a_token_that_the_hub_tells_back_is_not_shown(
    hub: Any, token: str, how: str, client: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not all begin as the Hub's own do: those of mirrors and proxies need not."""
    if how == "in the environment":
        monkeypatch.setenv("HF_TOKEN", token)
    elif how == "stored":
        (client.parent).mkdir(exist_ok=True)
        (client.parent / "token").write_text(token)
    message = {"X-Error-Message": f"the key {token} is odd"}
    hub.fail(lambda handler: handler.answer(400, b"", message) is None)
    with pytest.raises(HubError, match=r"refused \(400\): .*the key \*\*\* is odd") as error:
        load_bundle(REPO, token=token if how == "given" else None)
    assert token in {one.token for one in hub.requests}
    assert token not in "".join(traceback.format_exception(error.value))


def test_threads_that_overlap_leave_the_client_as_it_was() -> None:
    """The first one in is the first one out: the second must neither speak nor keep the silence for ever."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level, list(warnings.filters), are_progress_bars_disabled()
    first, second = _quiet(), _quiet()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert (logger.level, are_progress_bars_disabled()) == (logging.CRITICAL, True)
    second.__exit__(None, None, None)
    assert (logger.level, list(warnings.filters), are_progress_bars_disabled()) == before


@pytest.mark.parametrize("token", ["hf_secret\n", "hf_sécret", "hf_secret one"])
@pytest.mark.usefixtures("published")
def test_a_token_that_cannot_be_one_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(HubError, match="some of which no token has") as error:
        load_bundle(REPO, token=token)
    assert "secret" not in "".join(traceback.format_exception(error.value)).replace(repr(token), "")
    assert token not in str(error.value)


@pytest.mark.parametrize("endpoint", ["nonsense", "http://", "http://[::1", "ftp://127.0.0.1"])
@pytest.mark.usefixtures("published")
def test_an_address_that_is_none(endpoint: str, monkeypatch: pytest.MonkeyPatch, bundle_folder: Path) -> None:
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    with pytest.raises((HubError, ModelNotFoundError)):
        load_bundle(REPO)
    with pytest.raises(HubError):
        publish(plan_upload(load_bundle(bundle_folder)), "org/other")


@pytest.mark.usefixtures("published")
def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HubError, match="cache of the Hub cannot be written"):
        load_bundle(REPO, cache_dir=tmp_path / "file")


def test_two_processes_at_once(
    hub: Any, faults: Any, published: str, hub_environment: dict[str, str], tmp_path: Path
) -> None:
    """Both get the whole model, and neither is in the other's way."""
    hub.fail(faults.slow(0.1), path="/storage/", method="GET")
    code = f"from piaa_sdk.hub import load_bundle; print(load_bundle({REPO!r}).origin)"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=hub_environment,
            cwd=tmp_path,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=60) for process in running]
    assert answers == [(f"{REPO}@{published}\n", "")] * 2
