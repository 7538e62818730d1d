"""Pictures elsewhere: what is an address, what is found and read, what refusals say, what is hidden.

The clients are the real ones; the servers are stand-ins on 127.0.0.1.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from remote_fixtures import bucket, clients, google, web
from storage_standin import cut, drip, reset, silent, to, unstated

from piaa_sdk.errors import ImageError
from piaa_sdk.images import (
    Calls,
    RemotePicture,
    StoppedError,
    display_name,
    examine_remote,
    find_images,
    is_remote,
    read_bytes,
    read_remote,
    shown_url,
)
from piaa_sdk.images.formats import HEADER_BYTES
from piaa_sdk.images.remote_failures import failure_of

if TYPE_CHECKING:
    from storage_standin import BucketStandIn, GoogleStandIn, WebStandIn

__all__ = ["bucket", "clients", "google", "web"]  # fixtures

FIRST_BYTES = 1 << 20  # that are asked of a bucket at first
PAGE = b"\n<!DOCTYPE HTML><html><title>Log in</title>" + b" " * (4 << 20)


@pytest.fixture
def photo(photos: list[Path]) -> bytes:
    return photos[0].read_bytes()


def large(photo: bytes, size: int) -> bytes:
    """A file that begins like a picture; what follows is not looked at by who reads it."""
    return photo + bytes(range(256)) * ((size - len(photo)) // 256)


def found(*paths: Any, recursive: bool = True) -> list[str]:
    results = find_images(paths, recursive=recursive)
    return [f"{item.reason}!" if isinstance(item, ImageError) else os.fspath(item) for item in results]


def reason(path: str) -> str:
    with pytest.raises(ImageError) as caught:
        read_bytes(path)
    assert "\n" not in str(caught.value)
    # It would hold the address as it was given.
    assert not is_remote(path) or caught.value.__cause__ is None
    return caught.value.reason


# What is an address


@pytest.mark.parametrize(
    "url", ["s3://b/x.jpg", "gs://b/", "https://h/x.jpg", "HTTP://h/x", "s3://b/x::zip://y"]
)
def test_addresses(url: str) -> None:
    assert is_remote(url)
    assert is_remote(RemotePicture(url))


@pytest.mark.parametrize(
    "path", ["C:\\photos\\x.jpg", "C://x.jpg", "s3:", "s3:/b/x.jpg", "/s3://b/x", "./s3://b", "file:///x", ""]
)
def test_paths_are_no_addresses(path: str) -> None:
    assert not is_remote(path)
    assert not is_remote(Path(path))


def test_a_path_object_is_never_an_address() -> None:
    """It has lost a slash: what it would be taken for is not what was meant."""
    assert not is_remote(Path("s3://bucket/x.jpg"))


def test_a_file_that_is_called_like_a_protocol(tmp_path: Path, photo: bytes, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s3:").write_bytes(photo)
    assert read_bytes("s3:") == photo
    assert found("s3:") == ["s3:"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("ftp://host/x.jpg", "ftp:// cannot be read from"),
        ("memory://x.jpg", "memory:// cannot be read from"),
        ("simplecache::s3://b/x.jpg", "no such file"),
        ("zip://x.jpg::https://host/a.zip", "zip:// cannot be read from"),
        ("file:///x.jpg", "give its path instead"),
        ("s3://", "names no bucket"),
    ],
)
def test_other_protocols_are_refused(path: str, said: str) -> None:
    """No protocol is opened that is not on the list, whatever fsspec knows: chains and caches neither."""
    [result] = found(path)
    assert said in result
    if path != "s3://":
        assert said in reason(path)


# What is shown of an address


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://mira:secret@host:8080/a.jpg", "https://host:8080/a.jpg"),
        ("https://token@host/a.jpg?w=3", "https://host/a.jpg?w=3"),
        (
            "https://h/a.jpg?X-Amz-Date=2&X-Amz-Signature=ab12",
            "https://h/a.jpg?X-Amz-Date=2&X-Amz-Signature=***",
        ),
        ("https://h/a.jpg?X-Goog-Credential=m%40x&v=1", "https://h/a.jpg?X-Goog-Credential=***&v=1"),
        ("https://h/a.jpg?sv=1&sig=a%2Fb%3D", "https://h/a.jpg?sv=1&sig=***"),
        ("https://h/a.jpg?api_key=1#x", "https://h/a.jpg?api_key=***"),
        ("https://h/a@b.jpg", "https://h/a@b.jpg"),
        ("https://[::1/a.jpg?sig=1", "https://***"),
        ("https://mira:ses/ame@host/a.jpg", "https://***"),
        ("https://[::1]:80/a.jpg", "https://[::1]:80/a.jpg"),
        ("https://h/a.jpg?eyJhbGciOi.x&w=1", "https://h/a.jpg?***&w=1"),
        (
            "https://h/a.jpg?s%69g=1&AWSAccessKeyId=2&PHPSESSID=3",
            "https://h/a.jpg?s%69g=***&AWSAccessKeyId=***&PHPSESSID=***",
        ),
        ("https://h/a.jpg?from=https%3A//h/b%3Fsig%3D1&n=2", "https://h/a.jpg?from=***&n=2"),
        ("https://h/a.jpg;jsessionid=1?n=2", "https://h/a.jpg;jsessionid=***?n=2"),
        (
            "https://h/a?file=design1.jpg&assignment=2&keyboard=3",
            "https://h/a?file=design1.jpg&assignment=2&keyboard=3",
        ),
        ("s3://AKIA:secret@b/a.jpg", "s3://b/a.jpg"),
        ("ftp://mira:sesame@host/a.jpg?pw=1", "ftp://host/a.jpg?pw=***"),
        ("zip://x.jpg::https://mira:sesame@host/a.zip", "zip://***"),
        ("s3://b/a?sig=1@x.jpg", "s3://b/a?sig=1@x.jpg"),
        ("photos/https://u:p@h", "photos/https://u:p@h"),
    ],
)
def test_what_gives_access_is_not_shown(url: str, shown: str) -> None:
    assert shown_url(url) == shown
    assert display_name(url, 0) == shown
    assert display_name(RemotePicture(url), 0) == shown
    assert shown_url(shown) == shown


@pytest.mark.parametrize(
    "name",
    [
        *("pw", "pwd", "pass", "password", "user_password", "hash", "st", "jwt", "key", "rlkey", "apiKey"),
        *("API-KEY", "hmac", "X-Amz-Security-Token", "X-Goog-Signature", "Policy", "Key-Pair-Id", "code"),
        *("access_token", "client.secret", "auth"),
    ],
)
def test_values_that_sign_or_log_in_are_not_shown(name: str) -> None:
    assert shown_url(f"https://h/a.jpg?w=1&{name}=sesame") == f"https://h/a.jpg?w=1&{name}=***"


def test_addresses_that_cannot_be_read_from_are_told_without_their_login() -> None:
    url = "ftp://mira:sesame@host/a.jpg"
    [error] = find_images([url])
    assert isinstance(error, ImageError)
    with pytest.raises(ImageError) as caught:
        read_bytes(url)
    assert str(error) == str(caught.value)
    assert str(error).startswith("ftp://host/a.jpg: ")


@given(
    user=st.text("abcXYZ09.-_~%", min_size=1),
    rest=st.text("abc/?&=#.@:", max_size=20),
    mark=st.just("SEKRET"),
)
def test_no_password_is_ever_shown(user: str, rest: str, mark: str) -> None:
    assert mark not in shown_url(f"https://{user}:{mark}@host/{rest}")
    assert mark not in shown_url(f"http://host/{rest.replace('#', '')}?sig={mark}&a=1")


# Web servers


def test_a_picture_is_read_in_one_request(web: WebStandIn, photo: bytes) -> None:
    web.files["/a b/ü.png"] = photo
    assert read_bytes(f"{web.url}/a b/ü.png") == photo
    assert read_bytes(f"{web.url}/a%20b/%C3%BC.png") == photo
    assert web.requests == [("GET", "/a b/ü.png")] * 2


def test_a_large_picture_is_whole(web: WebStandIn, photo: bytes) -> None:
    web.files["/large.png"] = data = large(photo, 3 << 20)
    assert read_bytes(f"{web.url}/large.png") == data


def test_signed_queries_and_logins_arrive_as_they_were_given(web: WebStandIn, photo: bytes) -> None:
    """A signature covers the letters of the query: encoding them anew makes it void."""
    web.files["/a.png"] = photo
    query = "X-Amz-Credential=A%2F2026%2Fs3&X-Amz-Signature=a%2Bb+c"
    address = web.url.replace("http://", "http://mira:se%40cret@")
    assert read_bytes(f"{address}/a.png?{query}") == photo
    assert web.queries == [query]
    assert web.logins == ["Basic bWlyYTpzZUBjcmV0"]  # mira:se@cret


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (404, "no such file on the server"),
        (410, "no such file on the server"),
        (401, "no permission to read it (the server answers 401)"),
        (403, "no permission to read it (the server answers 403)"),
        (400, "the server answers 400, not a file"),
        (204, "the server answers 204, not a file"),
    ],
)
def test_answers_that_will_not_change_are_not_asked_for_again(
    web: WebStandIn, status: int, said: str
) -> None:
    web.faults["/a.png"] = [status]
    assert reason(f"{web.url}/a.png") == said
    assert web.count("GET") == 1


@pytest.mark.parametrize(
    "fault", [500, 503, 429, reset, cut(5000, b"")], ids=["500", "503", "429", "reset", "cut"]
)
def test_what_may_pass_is_tried_again(web: WebStandIn, photo: bytes, fault: Any) -> None:
    web.files["/a.png"] = photo
    web.faults["/a.png"] = [fault, fault]
    assert read_bytes(f"{web.url}/a.png") == photo
    assert web.count("GET") == 3


@pytest.mark.parametrize(
    ("fault", "said"),
    [(503, "the server fails (503)"), (reset, "the connection broke off")],
    ids=["503", "reset"],
)
def test_what_does_not_pass_is_told(web: WebStandIn, fault: Any, said: str) -> None:
    web.faults["/a.png"] = [fault] * 9
    assert reason(f"{web.url}/a.png") == said
    # The client asks once more by itself where a connection is cut.
    assert web.count("GET") == (6 if fault is reset else 3)


def test_a_picture_that_breaks_off_is_not_taken_for_whole(web: WebStandIn, photo: bytes) -> None:
    web.faults["/a.png"] = [cut(len(photo), photo[:-1])] * 9
    assert reason(f"{web.url}/a.png") == "the connection broke off"


def test_a_server_may_send_one_on(web: WebStandIn, photo: bytes) -> None:
    """A login is for the host that it was given for: it is not taken along to another."""
    web.files["/b.png"] = photo
    web.faults["/a.png"] = [to("/b.png"), to(f"http://localhost:{web.server_port}/b.png")]
    address = web.url.replace("http://", "http://u:secret@")
    assert read_bytes(f"{address}/a.png") == read_bytes(f"{address}/a.png") == photo
    assert [login is not None for login in web.logins] == [True, True, True, False]


def test_a_server_that_sends_one_astray(web: WebStandIn) -> None:
    web.faults["/a.png"] = [to("/a.png")] * 50
    assert reason(f"{web.url}/a.png") == "the server sends one in circles"
    web.faults["/b.png"] = [to("file:///etc/passwd")]
    assert reason(f"{web.url}/b.png") == "the server sends one to what is no web address"


def test_a_web_page_is_not_fetched_whole(web: WebStandIn) -> None:
    """Many a server answers with a page to log in where a picture was asked for."""
    web.files["/a.png"] = PAGE
    assert reason(f"{web.url}/a.png") == "a web page, not a picture"
    assert web.count("GET") == 1


def test_a_film_is_not_fetched_whole(web: WebStandIn) -> None:
    web.faults["/film.jpg"] = [unstated(b"\0" * HEADER_BYTES, endless=True)]
    assert reason(f"{web.url}/film.jpg").startswith("not a picture in a known format")


def test_what_is_too_large_is_not_fetched(web: WebStandIn, photo: bytes) -> None:
    web.faults["/a.png"] = [cut(2_000_000_000, photo)]
    assert reason(f"{web.url}/a.png") == "too large: a file of 2.0 GB; at most 1 GB is read"
    web.faults["/a.png"] = [cut(2_000_000_000, photo)]
    assert examine_remote(f"{web.url}/a.png").size == 2_000_000_000
    with pytest.raises(ImageError, match="too large"):
        read_remote(RemotePicture(f"{web.url}/a.png", 2_000_000_000))
    assert web.count("GET") == 1


def test_sizes_that_are_not_stated(web: WebStandIn, photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    web.faults["/a.png"] = [unstated(photo)]
    assert read_bytes(f"{web.url}/a.png") == photo
    monkeypatch.setattr("piaa_sdk.images.remote._MAX_UNSTATED_BYTES", 1 << 20)
    web.faults["/a.png"] = [unstated(large(photo, 1 << 17), endless=True)]
    assert reason(f"{web.url}/a.png") == "longer than 1 MB, and its server does not state its size"
    web.faults["/a.png"] = [unstated(large(photo, 1 << 20).ljust(1 << 20, b"\0"))]
    assert len(read_bytes(f"{web.url}/a.png")) == 1 << 20


def test_room_is_made_before_it_is_needed(web: WebStandIn, photo: bytes) -> None:
    """For what is stated, else in stretches; what is tried again holds nothing first."""
    rooms: list[int] = []
    is_asked = threading.Event()

    def make_room(size: int) -> None:
        rooms.append(size)
        if size == 300_000:
            is_asked.set()

    web.faults["/a.png"] = [cut(300_000, large(photo, 2 * HEADER_BYTES), is_asked), unstated(photo)]
    assert read_remote(RemotePicture(f"{web.url}/a.png"), make_room=make_room)[0] == photo
    assert rooms == [0, 300_000, 0, 8 << 20]
    data = large(photo, 20 << 20)
    web.faults["/a.png"] = [unstated(data)]
    rooms.clear()
    assert read_remote(RemotePicture(f"{web.url}/a.png"), make_room=rooms.append)[0] == data
    assert rooms == [0, 8 << 20, 16 << 20, 32 << 20]


def test_an_empty_file(web: WebStandIn) -> None:
    web.files["/a.png"] = b""
    assert reason(f"{web.url}/a.png") == "the file is empty"


@pytest.mark.parametrize("fault", [silent, drip(b"\x89PNG\r\n\x1a\n" + bytes(100), 0.2)])
def test_a_slow_server_is_given_up(web: WebStandIn, monkeypatch: pytest.MonkeyPatch, fault: Any) -> None:
    """One that says nothing, and one that says something ever so often: neither is waited for endlessly."""
    monkeypatch.setattr("piaa_sdk.images.remote_clients.SILENT_SECONDS", 0.5)
    monkeypatch.setattr("piaa_sdk.images.remote_clients.REQUEST_SECONDS", 1.0)
    web.faults["/a.png"] = [fault]
    begin = time.monotonic()
    assert reason(f"{web.url}/a.png") == "the server does not answer in time"
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize("scheme", ["http", "gs"])
def test_a_large_file_may_take_longer(
    web: WebStandIn, google: GoogleStandIn, photo: bytes, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """A slow line is no silent server: what is sent all the time is waited for."""
    monkeypatch.setattr("piaa_sdk.images.remote_clients.SILENT_SECONDS", 20.0)
    monkeypatch.setattr("piaa_sdk.images.remote_clients.REQUEST_SECONDS", 1.0)
    monkeypatch.setattr("piaa_sdk.images.remote_clients._BYTES_IN_TIME", 64 << 10)
    data = large(photo, 3 << 20)

    def send_slowly(handler: Any) -> None:
        rest = data[FIRST_BYTES:] if scheme == "gs" else data  # whose first part came at once
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(rest)))
        handler.end_headers()
        for begin in range(0, len(rest), 1 << 19):
            handler.send(rest[begin : begin + (1 << 19)])
            handler.wfile.flush()
            handler.server.ends.wait(0.4)

    web.faults["/a.png"] = [send_slowly]
    google.files["/b/a.png"] = data
    google.faults["/download/storage/v1/b/b/o/a.png"] = [None, send_slowly]
    assert read_bytes("gs://b/a.png" if scheme == "gs" else f"{web.url}/a.png") == data


def test_servers_that_are_not_there(web: WebStandIn) -> None:
    web.server_close()
    web.shutdown()
    assert reason(f"http://127.0.0.1:{web.server_port}/a.png") == "the server cannot be reached"


@pytest.mark.parametrize("url", ["http://[::1/a.png", "http://host:99999/a.png", "http:///a.png"])
def test_impossible_addresses(clients: None, url: str) -> None:
    assert reason(url) == "not a possible address"


def test_a_web_address_is_one_picture(web: WebStandIn) -> None:
    """There is no listing, and no page is taken apart: nothing is asked for before its turn."""
    assert found(f"{web.url}/album/") == [f"{web.url}/album/"]
    assert web.requests == []


def test_examining_fetches_nothing(web: WebStandIn, photo: bytes) -> None:
    web.files["/a.png"] = photo
    first = examine_remote(f"{web.url}/a.png")
    assert first.size == len(photo)
    assert first.version is not None
    assert web.requests == [("HEAD", "/a.png")]
    web.files["/a.png"] = photo + b"\0"
    assert examine_remote(f"{web.url}/a.png") != first
    with pytest.raises(ImageError, match="no such file"):
        examine_remote(f"{web.url}/b.png")


def test_a_server_that_refuses_to_be_asked_is_read_all_the_same(web: WebStandIn, photo: bytes) -> None:
    """A signature for reading is none for asking after the headers."""
    web.files["/a.png"] = photo
    web.faults["/a.png"] = [403]
    picture = examine_remote(f"{web.url}/a.png")
    assert (picture.size, picture.version) == (None, None)
    assert read_remote(picture)[0] == photo


def test_stopping_ends_what_is_running_and_what_may_come(web: WebStandIn) -> None:
    web.faults["/a.png"] = [silent]
    calls, ended = Calls(), []

    def read() -> None:
        with pytest.raises(StoppedError):
            read_remote(RemotePicture(f"{web.url}/a.png"), calls)
        ended.append(time.monotonic())

    reader = threading.Thread(target=read)
    reader.start()
    while not web.requests:
        time.sleep(0.01)
    begin = time.monotonic()
    calls.stop()
    reader.join(10)
    assert ended[0] - begin < 2
    with pytest.raises(StoppedError):
        read_remote(RemotePicture(f"{web.url}/a.png"), calls)


# Buckets


def put(bucket: BucketStandIn, *keys: str, data: bytes = b"x") -> None:
    bucket.files.update({f"/b/{key}": data for key in keys})


def test_a_prefix_is_listed_like_a_folder(bucket: BucketStandIn) -> None:
    """Over several pages: suffixes, order, hidden names and folders as on a disk."""
    put(
        bucket,
        "p/IMG_10.jpg",
        "p/img_2.jpg",
        "p/IMG_1.jpg",
        "p/a/z.jpg",
        "p/a/b/y.PNG",
        "p/B.jpg",
        "p/notes.txt",
    )
    put(bucket, "p/.hidden.jpg", "p/.thumbnails/c.jpg", "p/", "p/a/", "q/other.jpg", "pq.jpg")
    files = ["B.jpg", "IMG_1.jpg", "img_2.jpg", "IMG_10.jpg"]
    expected = [f"s3://b/p/{name}" for name in [*files, "a/z.jpg", "a/b/y.PNG"]]
    assert found("s3://b/p/") == expected
    assert found("s3://b/p") == found("S3://b/p/") == expected
    assert found("s3://b/p/", recursive=False) == expected[:4]
    assert bucket.pages > 6
    assert len(found("s3://b")) == len(found("s3://b/")) == 8


def test_listings_tell_size_and_version(bucket: BucketStandIn) -> None:
    """They are those that the object tells of itself, so that either way it is known again."""
    put(bucket, "p/a.jpg", data=b"12345")
    [listed] = find_images(["s3://b/p/"])
    assert listed == examine_remote("s3://b/p/a.jpg")
    assert isinstance(listed, RemotePicture)
    assert listed.size == 5
    assert listed.version is not None


def test_listing_is_lazy(bucket: BucketStandIn) -> None:
    put(bucket, "p/1.jpg", "p/a/2.jpg")
    results = find_images(["s3://b/p/"])
    assert bucket.pages == 0
    assert os.fspath(next(results)) == "s3://b/p/1.jpg"  # type: ignore[arg-type]
    assert bucket.pages == 1
    put(bucket, "p/a/3.jpg")
    assert [os.fspath(item) for item in results] == ["s3://b/p/a/2.jpg", "s3://b/p/a/3.jpg"]  # type: ignore[arg-type]


def test_a_named_object_is_taken_without_asking(bucket: BucketStandIn) -> None:
    put(bucket, "scan.001", "x.jpg")
    assert found("s3://b/x.jpg", "s3://b/missing.jpg") == ["s3://b/x.jpg", "s3://b/missing.jpg"]
    assert bucket.requests == []
    assert found("s3://b/scan.001") == ["s3://b/scan.001"]


def test_odd_keys(bucket: BucketStandIn, photo: bytes) -> None:
    keys = ["p/a b+c%20&d.png", "p/ü?x=1#y.png", "p/x::zip:y.png"]
    put(bucket, *keys, data=photo)
    assert sorted(found("s3://b/p/")) == sorted(f"s3://b/{key}" for key in keys)
    for key in keys:
        assert read_bytes(f"s3://b/{key}") == photo


def test_folders_that_cannot_be_walked_are_told(bucket: BucketStandIn) -> None:
    put(bucket, "p/a.jpg", "p/c.jpg/d.jpg")
    assert found("s3://b/p/") == [
        "s3://b/p/a.jpg",
        "a folder, not a picture!",
        "s3://b/p/c.jpg/d.jpg",
    ]
    assert found("s3://b/none/", "s3://nobody/", "s3://b/p/a.jpg") == [
        "no such file or folder there!",
        "no such file or folder there!",
        "s3://b/p/a.jpg",
    ]


def test_folders_without_names(bucket: BucketStandIn) -> None:
    """Two slashes in a row are one more folder to a bucket."""
    put(bucket, "p/a.jpg", "p//b.jpg", "p///c.jpg", "/d.jpg")
    assert found("s3://b/p/") == ["s3://b/p/a.jpg", "s3://b/p//b.jpg", "s3://b/p///c.jpg"]
    assert found("s3://b//") == ["s3://b//d.jpg"]


def test_a_large_folder_comes_in_stretches(bucket: BucketStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first picture does not wait for the last page; each stretch is in order; a failure is told last."""
    monkeypatch.setattr("piaa_sdk.images.remote.STRETCH", 4)
    put(bucket, *(f"p/{number}.jpg" for number in (1, 10, 11, 2, 3, 4, 5, 6)))
    results = find_images(["s3://b/p/"])
    assert os.fspath(next(results)) == "s3://b/p/1.jpg"  # type: ignore[arg-type]
    assert bucket.pages == 2
    bucket.faults["/b"] = [503] * 9
    rest = [item.reason if isinstance(item, ImageError) else os.fspath(item)[9:] for item in results]
    assert rest == ["2.jpg", "3.jpg", "4.jpg", "10.jpg", "11.jpg", "the server fails (503)"]


def test_a_listing_that_fails_in_mid_page_is_tried_again(bucket: BucketStandIn) -> None:
    put(bucket, *(f"p/{number}.jpg" for number in range(7)))
    bucket.faults["/b"] = [503, None, 500]
    assert len(found("s3://b/p/")) == 7
    bucket.faults["/b"] = [403]
    assert found("s3://b/p/") == ["no permission to read it!"]


@pytest.mark.parametrize("size", [100, 1 << 20, (1 << 20) + 1, 5 << 20])
@pytest.mark.parametrize("is_known", [False, True])
def test_an_object_is_read_in_two_parts_at_most(
    bucket: BucketStandIn, photo: bytes, size: int, is_known: bool
) -> None:
    data = large(photo, size).ljust(size, b"\0")
    put(bucket, "a.png", data=data)
    url = "s3://b/a.png"
    assert read_remote(examine_remote(url) if is_known else RemotePicture(url))[0] == data
    assert bucket.count("GET") == (1 if len(data) < 1 << 20 else 2)


def test_an_object_that_has_changed_since_it_was_listed(bucket: BucketStandIn, photo: bytes) -> None:
    """A shorter one is read as it is; of a longer one half would be read."""
    put(bucket, "a.png", data=photo)
    longer = RemotePicture("s3://b/a.png", 3 << 20, "1")
    assert read_remote(longer)[0] == photo
    put(bucket, "a.png", data=large(photo, 4 << 20))
    with pytest.raises(ImageError, match="longer since it was listed"):
        read_remote(longer)


def test_an_object_that_is_no_picture_is_not_fetched_whole(bucket: BucketStandIn) -> None:
    put(bucket, "film.jpg", data=bytes(8 << 20))
    assert reason("s3://b/film.jpg").startswith("not a picture in a known format")
    assert bucket.bytes_sent <= 1 << 20
    put(bucket, "empty.jpg", data=b"")
    assert reason("s3://b/empty.jpg") == "the file is empty"
    with pytest.raises(ImageError, match="too large"):
        read_remote(RemotePicture("s3://b/film.jpg", 2_000_000_000, "1"))


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        ([404], "no such file or folder there"),
        ([403], "no permission to read it"),
        ([503] * 9, "the server fails (503)"),
        ([500] * 9, "the server fails (500)"),
        ([reset] * 9, "the connection broke off"),
    ],
    ids=["404", "403", "503", "500", "reset"],
)
def test_what_an_object_store_refuses(bucket: BucketStandIn, faults: list[Any], said: str) -> None:
    put(bucket, "a.png")
    bucket.faults["/b/a.png"] = [*faults]
    assert reason("s3://b/a.png") == said
    assert bucket.count("GET") == (6 if reset in faults else min(3, len(faults)))


def test_what_may_pass_in_a_bucket_is_tried_again(bucket: BucketStandIn, photo: bytes) -> None:
    put(bucket, "a.png", data=photo)
    bucket.faults["/b/a.png"] = [503, reset]
    assert read_bytes("s3://b/a.png") == photo


def test_missing_credentials_are_told_with_the_way_out(
    bucket: BucketStandIn, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(bucket, "a.png", data=photo)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "FSSPEC_S3_ANON=true for a public bucket" in reason("s3://b/a.png")
    assert bucket.requests == []


def test_the_way_out_is_one(bucket: BucketStandIn, photo: bytes) -> None:
    """A public bucket is read without credentials; the setting is read when the program starts."""
    put(bucket, "a.png", data=photo)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_ACCESS")}
    program = "from piaa_sdk.images import read_bytes; print(len(read_bytes('s3://b/a.png')))"
    completed = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=kept | {"FSSPEC_S3_ANON": "true", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (completed.stdout.strip(), completed.stderr) == (str(len(photo)), "")
    assert bucket.logins == [None]


def test_google_is_listed_and_read_like_any_bucket(google: GoogleStandIn, photo: bytes) -> None:
    """Over several pages, with the objects that stand for folders, odd names, sizes and versions."""
    keys = [
        "p/10.png",
        "p/2.png",
        "p/1.png",
        "p/a b+c%20#d?.png",
        "p/deep/3.png",
        "p/notes.txt",
    ]
    google.files.update({f"/b/{key}": photo for key in keys})
    google.files.update({"/b/p/": b"", "/b/p/deep/": b""})
    google.files["/b/p/large.png"] = data = large(photo, 3 << 20)
    names = ["1.png", "2.png", "10.png", "a b+c%20#d?.png", "large.png", "deep/3.png"]
    expected = [f"gs://b/p/{name}" for name in names]
    assert found("gs://b/p/") == found("gs://b/p") == expected
    listed = [item for item in find_images(["gs://b/p/"]) if isinstance(item, RemotePicture)]
    assert listed[0] == examine_remote("gs://b/p/1.png")
    assert [len(read_remote(item)[0]) for item in listed[3:5]] == [len(photo), len(data)]
    assert read_bytes("gs://b/p/large.png") == data
    assert len({item.version for item in listed}) == 2
    assert reason("gs://b/none.png") == "no such file or folder there"
    assert found("gs://nobody/p/") == ["no such file or folder there!"]
    google.faults["/download/storage/v1/b/b/o/p/1.png"] = [403]
    assert reason("gs://b/p/1.png").startswith("no permission to read it")


# What is missing, and what escapes


@pytest.mark.parametrize("url", ["s3://b/a.png", "gs://b/a.png", "https://h/a.png"])
def test_missing_packages_are_told_with_the_command(
    clients: None, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    for name in ("aiohttp", "fsspec", "fsspec.implementations.http", "s3fs", "gcsfs", "gcsfs.core"):
        monkeypatch.setitem(sys.modules, name, None)
    assert reason(url).endswith("pip install aiohttp fsspec gcsfs s3fs")
    assert url.partition("b/")[0].partition("h/")[0] in reason(url)


def test_nothing_of_a_library_is_repeated() -> None:
    """What it says holds the address, with whatever gives access."""
    assert failure_of(RuntimeError("https://u:p@host")).reason == "cannot be read (RuntimeError)"
