"""An object storage: which addresses are taken, and that every fault of one is said in a line before any work."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from s3_server import BUCKET, KEYS, Server

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.pipeline.object_storage import ObjectStorage, check_storage, checked_address, is_address
from distill2edge.pipeline.storage_faults import fault_of_storage
from distill2edge.pipeline.store import Store
from distill2edge.pipeline.store_at import store_at

URL = f"s3://{BUCKET}/here"


@pytest.mark.parametrize(
    ("place", "wanted"),
    [
        ("s3://models", "s3://models"),
        ("s3://models/", "s3://models"),
        ("s3://models//a//b/", "s3://models/a/b"),
        (Path("s3://models/a"), "s3://models/a"),
    ],
)
def test_an_address_has_one_form(place: object, wanted: str) -> None:
    assert is_address(place)
    assert checked_address(place) == wanted


@pytest.mark.parametrize("place", ["store", "/a/s3/b", "./s3:/x", "C:\\store", "C:/store", "", "s3", "s3:/models/a"])
def test_a_path_is_a_path(place: str) -> None:
    assert not is_address(place)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("s3://", "not the address of a bucket"),
        ("s3://models/../other", "not the address"),
        ("s3://models/a?versionId=1", "not the address"),
        ("s3://models/a b", "not the address"),
        ("s3://me:secret@models/a", "credentials do not belong"),
        ("http://models/a", "cannot lie there"),
        ("file:///tmp/store", "cannot lie there"),
        ("ftp://me:secret@models/a", "cannot lie there"),
    ],
)
def test_what_is_no_address_of_a_store_is_refused(place: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        checked_address(place)
    assert "secret" not in str(caught.value)
    assert "s3://BUCKET/PREFIX" in caught.value.fix


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "s3fs" else found(name))
    with pytest.raises(EnvironmentFault, match="needs the package s3fs") as caught:
        store_at(URL)
    assert caught.value.fix == "pip install 'distill2edge[s3]'"
    assert caught.value.exit_code == 4


def test_a_store_at_a_path_is_the_plain_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(store_at(tmp_path)) is type(store_at(str(tmp_path))) is type(store_at()) is Store
    monkeypatch.setenv("DISTILL2EDGE_STORE", URL)
    assert store_at().name == URL


def test_objects_are_written_read_listed_and_deleted(s3: Server, tmp_path: Path) -> None:
    storage = ObjectStorage(URL)
    assert storage.entries("") == {} == storage.entries("a")
    assert storage.create("a/one", b"1")
    assert not storage.create("a/one", b"2")
    assert storage.create("a/one", b"1")  # sent again, as the answer was lost
    storage.write("a/b/two", b"22")
    assert storage.read("a/one") == b"1"
    assert storage.read("a/none") is None
    assert {name: entry.size for name, entry in storage.entries("a").items()} == {"one": 1, "b/two": 2}
    (tmp_path / "file").write_bytes(b"x" * 70_000)
    storage.upload(tmp_path / "file", "ab/three")
    assert set(storage.entries("a")) == {"one", "b/two"}
    assert storage.download("ab/three", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"x" * 70_000
    assert not storage.download("ab/four", tmp_path / "none")
    storage.delete("a/one")
    storage.delete("a/one")
    assert set(storage.entries("")) == {"a/b/two", "ab/three"}


def test_what_a_server_answers_to_a_creation_is_understood(s3: Server) -> None:
    storage = ObjectStorage(URL)
    s3.door.once = "conflict"  # with another, which has failed meanwhile
    assert storage.create("a", b"1")
    s3.door.once = "lost"  # the request is sent again, and finds its own object
    assert storage.create("b", b"1")
    s3.door.once = "plain"
    assert not storage.create("a", b"2")
    assert storage.read("a") == storage.read("b") == b"1"
    assert not s3.door.once


def test_a_good_server_passes_and_keeps_nothing_of_the_check(s3: Server) -> None:
    check_storage(ObjectStorage(URL))
    assert s3.names() == []


def fault(match: str) -> Any:
    return pytest.raises(EnvironmentFault, match=match)


def test_a_server_that_does_not_hear_conditions_is_refused_by_name(s3: Server) -> None:
    s3.door.deaf = True
    with fault(f"{s3.endpoint} writes an object twice") as caught:
        check_storage(ObjectStorage(URL))
    assert "If-None-Match" in caught.value.fix
    assert s3.names() == []


def test_a_server_that_loses_what_it_took_is_refused(s3: Server) -> None:
    s3.door.lost = "probes"
    with fault("writes an object twice|does not give back"):
        check_storage(ObjectStorage(URL))


def test_a_missing_bucket(s3: Server) -> None:
    with fault("there is no such bucket") as caught:
        check_storage(ObjectStorage("s3://nowhere/a"))
    assert caught.value.where == "s3://nowhere/a"
    with fault("there is no such bucket"):
        ObjectStorage("s3://nowhere/a").entries("artifacts")


def test_credentials_that_the_server_refuses(s3: Server) -> None:
    storage, refused = ObjectStorage(URL), "the server refuses: not for you"
    for code, words in {
        "AccessDenied": refused,
        "InvalidAccessKeyId": refused,
        "SignatureDoesNotMatch": refused,
        "ExpiredToken": refused,
        "RequestTimeTooSkewed": "the clock of this machine differs",
    }.items():
        s3.door.refused = code
        with fault(words) as caught:
            check_storage(storage)
        assert ("clock" if "clock" in words else "AWS_PROFILE") in caught.value.fix
        assert "testing" not in str(caught.value)


def test_no_credentials(s3: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in KEYS:
        if "KEY" in name:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with fault("no credentials") as caught:
        check_storage(ObjectStorage(URL))
    assert "AWS_PROFILE" in caught.value.fix


def test_a_server_out_of_reach(s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with fault("cannot be reached") as caught:
        check_storage(ObjectStorage(URL))
    assert "AWS_ENDPOINT_URL" in caught.value.fix


def test_an_endpoint_that_is_none(s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    with fault("not an address that can be asked"):
        check_storage(ObjectStorage(URL))


def test_a_fault_that_nobody_has_foreseen_is_one_line_all_the_same() -> None:
    said = fault_of_storage(RuntimeError("a\nb"), URL)
    assert said.what == "the server has failed: RuntimeError: a b"


def test_a_request_is_named_without_its_query() -> None:
    request = "https://host.example/models/here?list-type=2&prefix=a%2Fb&X-Amz-Signature=0123"
    said = fault_of_storage(ConnectionError(f'Could not connect to "{request}": is it there? Try again'), URL)
    assert 'Could not connect to "https://host.example/models/here": is it there? Try again' in said.what
