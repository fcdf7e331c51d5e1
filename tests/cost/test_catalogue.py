"""The price catalogue: dated, sourced, bounded; overridden by a file with every mistake named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from distill2edge.cost.catalogue import Bounded, load_catalogue
from distill2edge.cost.serving_places import check_places
from distill2edge.errors import RecipeErrors, UserError
from distill2edge.recipe.schema import Cost

BOX = """
rented:
  my-box:
    label: Box in the cellar
    kind: cpu
    vcpus: 4
    memory_gib: 16
    usd_per_hour: 1e-2
    region: cellar
    source: the invoice of May
    as_of: 2026-05-01
    confidence: high
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    return path


def test_the_default_machine_is_there_and_named() -> None:
    machine = load_catalogue().rented_machine("cpu-2-vcpu")
    assert (machine.vcpus, machine.memory_gib, machine.kind) == (2, 8, "cpu")
    assert "m6i.large" in machine.label
    check_places(Cost())  # type: ignore[call-arg]


def test_every_entry_says_where_and_when() -> None:
    catalogue = load_catalogue()
    entries = [catalogue.electricity, *catalogue.rented.values(), *catalogue.api.values(), *catalogue.devices.values()]
    assert len(entries) >= 20
    for entry in entries:
        assert entry.region
        assert entry.as_of <= catalogue.as_of
        assert entry.source == "general knowledge" or re.match(r"https://[\w.-]+/", entry.source)
        if entry.source == "general knowledge":
            assert entry.confidence == "low"


def test_what_was_not_read_has_wide_bounds() -> None:
    for machine in load_catalogue().rented.values():
        if machine.confidence == "low":
            assert machine.usd_per_hour.high >= 1.3 * machine.usd_per_hour.low


@pytest.mark.parametrize("name", ["raspberry-pi-5", "jetson-orin-nano", "android-phone-midrange", "mini-pc-n100",
                                  "macbook-air-m4"])  # fmt: skip
def test_the_devices_are_there(name: str) -> None:
    device = load_catalogue().device(name)
    assert device.idle_w.value < device.active_w.value
    assert device.resale_usd.value < device.capex_usd.value


def test_an_override_adds_and_replaces(tmp_path: Path) -> None:
    path = write(tmp_path, BOX + BOX.replace("rented:\n", "").replace("my-box", "cpu-2-vcpu"))
    catalogue = load_catalogue(path)
    assert catalogue.rented_machine("my-box").usd_per_hour == Bounded(value=0.01, low=0.01, high=0.01)
    assert catalogue.rented_machine("cpu-2-vcpu").label == "Box in the cellar"
    assert catalogue.rented_machine("gpu-h100").kind == "gpu"
    assert "prices.yaml" in catalogue.origin
    assert str(tmp_path) not in catalogue.origin


def test_two_price_files_are_told_apart(tmp_path: Path) -> None:
    first = load_catalogue(write(tmp_path, BOX)).origin
    assert load_catalogue(write(tmp_path, BOX.replace("1e-2", "2e-2"))).origin != first


def test_all_mistakes_at_once_with_their_line(tmp_path: Path) -> None:
    text = BOX.replace("usd_per_hour: 1e-2", "usd_per_hour: {value: 5, low: 6, high: 7}").replace(
        "kind: cpu", "kind: tpu"
    )
    path = write(tmp_path, text + "    colour: red\n")
    with pytest.raises(RecipeErrors) as caught:
        load_catalogue(path)
    said = str(caught.value)
    assert len(caught.value.errors) == 3
    assert f"{path}:5: rented.my-box.kind" in said
    assert f"{path}:8: rented.my-box.usd_per_hour" in said
    assert "colour" in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- a list\n", "not a mapping"),
        ("rented: {a: [\n", "not valid YAML"),
        (BOX + "rented:\n", "written twice"),
        ("rented: 5\n", "dictionary"),
        ("prices: {}\n", "not permitted"),
        (BOX.replace("2026-05-01", "yesterday"), "date"),
        (BOX.replace("1e-2", ".inf"), "finite"),
        (BOX.replace("1e-2", "-1"), "greater than or equal to 0"),
    ],
)
def test_bad_files_are_explained(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UserError, match=f"(?i){says}"):
        load_catalogue(write(tmp_path, text))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file") as caught:
        load_catalogue(tmp_path / "none.yaml")
    assert "none.yaml" in caught.value.where


def test_a_price_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        load_catalogue(path)


def test_unknown_places_name_the_nearest() -> None:
    with pytest.raises(UserError, match="raspbery") as caught:
        check_places(Cost.model_validate({"student": {"device": "raspbery-pi-5"}}))
    assert "did you mean raspberry-pi-5" in caught.value.fix
    assert caught.value.where == "cost.student.device"


def test_a_name_of_another_section_is_pointed_out() -> None:
    with pytest.raises(UserError) as caught:
        check_places(Cost.model_validate({"student": {"rented": "raspberry-pi-5"}}))
    assert "device: raspberry-pi-5" in caught.value.fix


def test_a_student_has_no_api_price() -> None:
    with pytest.raises(UserError, match="your own model"):
        check_places(Cost.model_validate({"student": {"api": "openai-gpt-5.6-luna"}}))
