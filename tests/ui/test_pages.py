"""What a user sees of the page over runs, and who may see it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import report_fixtures as made
from starlette.testclient import TestClient
from ui_folder import EVIL, running, write_folder, write_run

from distill2edge.running.status import FILE
from distill2edge.ui import runs as listing
from distill2edge.ui.app import Pages
from distill2edge.ui.desk import Desk
from distill2edge.ui.guard import MOST_BYTES
from distill2edge.ui.runs import Runs

HOME = "http://127.0.0.1:8617"


class Site:
    """The page over a folder, asked without a network."""

    def __init__(self, place: Path) -> None:
        self.runs, self.desk = Runs(place), Desk()
        self.client = TestClient(Pages(self.runs, self.desk).app(), base_url=HOME, follow_redirects=False)

    def get(self, address: str, code: int = 200, **asked: Any) -> str:
        answer = self.client.get(address, **asked)
        assert answer.status_code == code, answer.text
        return answer.text

    def post(self, address: str, code: int, fields: dict[str, str] | None = None, **headers: str) -> Any:
        answer = self.client.post(address, data=fields or {"text": "x"}, headers={"Origin": HOME, **headers})
        assert answer.status_code == code, answer.text
        return answer

    def id(self, name: str) -> str:
        return next(run.id for run in self.runs.all() if run.name == name)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    found = Site(write_folder(tmp_path_factory.mktemp("ui")))
    yield found
    found.desk.close()


def rows(page: str) -> dict[str, str]:
    """Name of each run in the list -> the words of its row."""
    found = {}
    for row in re.findall(r"<tr>(.*?)</tr>", page.partition("<tbody>")[2], re.S):
        name = re.search(r"/runs/[^>]*>(.*?)</a>", row, re.S)
        assert name is not None
        found[name[1].replace("<wbr>", "")] = " ".join(re.sub(r"<[^>]+>", " ", row).split())
    return found


# --- the list -------------------------------------------------------------------


def test_every_run_is_listed_with_its_state_and_why(site: Site) -> None:
    page = site.get("/")
    found = rows(page)
    states = {
        "quickstart": "pass", "smaller": "fail", "group/vectors": "pass", "live": "running distill (5 of 6)",
        "killed": "killed", "stopped": "stopped", "failed": "error", "no-json": "broken report.json: not JSON",
        "linked": "broken report.json is a link", "leads-out": "broken a link",
    }  # fmt: skip
    for name, words in states.items():
        assert words in found[name], found[name]
    assert len(found) == 13
    assert "13 of 13 runs" in page
    assert "97.4%" in found["quickstart"]
    assert "57.0 MB" in found["quickstart"]
    assert not {"notes", ".hidden"} & found.keys()
    assert page.index("live") < page.index("quickstart")  # what is at work stands first


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("text=QUICK", {"quickstart"}),
        ("text=Q4_K_M+small", {"smaller"}),
        ("state=fail", {"smaller"}),
        ("task=embedding", {"group/vectors"}),
        ("state=running&text=l", {"live"}),
        ("text=nowhere", set()),
        ("state=%3Cscript%3E&text=stopped&sort=nonsense", {"stopped"}),
    ],
)
def test_the_form_filters(site: Site, query: str, names: set[str]) -> None:
    page = site.get(f"/?{query}")
    assert set(rows(page)) == names
    assert f"{len(names)} of 13 runs" in page
    assert "Show all" in page


def test_what_is_typed_stays_in_the_form_and_is_escaped(site: Site) -> None:
    page = site.get("/", params={"text": f'"{EVIL}', "sort": "name"})
    assert "<img" not in page
    assert 'value="&#34;&lt;img src=x' in page
    assert '<option value="name" selected>' in page
    assert list(rows(site.get("/?sort=name"))) == sorted(rows(site.get("/")), key=lambda n: n.replace("&lt;", "<"))


def test_a_folder_without_runs_says_what_to_do_and_shows_the_first(tmp_path: Path) -> None:
    site = Site(tmp_path)
    page = site.get("/")
    assert "There are no runs in" in page
    assert "distill2edge run my.yaml" in page
    assert "No run here has a file" in site.get("/try")
    write_run(tmp_path / "first", made.report())
    assert set(rows(site.get("/"))) == {"first"}
    site.desk.close()


# --- one run --------------------------------------------------------------------


def test_a_run_has_its_report_files_and_documents(site: Site) -> None:
    run = site.id("quickstart")
    page = site.get(f"/runs/{run}")
    for words in (
        "All 9 gates passed",
        'id="cost"',
        "gguf:Q8_0</a>",
        "a gate failed",
        f"/runs/{run}/files/report.json",
    ):
        assert words in page
    assert page.count("<main") == page.count("<h1") == 1
    assert json.loads(site.get(f"/runs/{run}/files/report.json"))["schema_version"] == 1


def test_a_run_at_work_is_followed(site: Site) -> None:
    run = site.id("live")
    page = site.get(f"/runs/{run}")
    assert f'data-progress="/runs/{run}/progress"' in page
    assert 'role="status"' in page
    answer = site.client.get(f"/runs/{run}/progress")
    assert answer.headers["x-running"] == "yes"
    for words in (
        "At distill, stage 5 of 6",
        "40 of 40 · loss 1.9",
        "training loss at step 40",
        "<svg",
        'max="6" value="4"',
    ):
        assert words in answer.text
    assert "\\u001b[2J" in answer.text  # shown, not obeyed
    assert "It ended at distill, stage 5 of 6" in site.get(f"/runs/{site.id('killed')}")


def test_a_run_that_ended_while_it_was_followed_says_so(tmp_path: Path) -> None:
    running(tmp_path / "runs" / "one")
    site = Site(tmp_path / "runs")
    run = site.id("one")
    status = tmp_path / "runs" / "one" / FILE
    status.write_text(json.dumps({**json.loads(status.read_text()), "state": "stopped"}))
    answer = site.client.get(f"/runs/{run}/progress")
    assert answer.headers["x-running"] == "no"
    assert "stopped" in site.get(f"/runs/{run}")
    site.desk.close()


@pytest.mark.parametrize(
    ("name", "said"),
    [("no-json", "not JSON"), ("linked", "is a link"), ("leads-out", "a link"), ("failed", "no such file"),
     ("damaged", "report.json is damaged"), ("inside", "report.json is damaged")],
)  # fmt: skip
def test_a_broken_run_says_why_and_breaks_nothing_else(site: Site, name: str, said: str) -> None:
    assert said in site.get(f"/runs/{site.id(name)}")
    state = "error" if name == "failed" else "broken"
    assert state in rows(site.get("/"))[name]
    assert "All 9 gates passed" in site.get(f"/runs/{site.id('quickstart')}")


def test_a_figure_without_an_end_makes_a_broken_run(tmp_path: Path) -> None:
    """What the report's own code takes for granted, and a damaged one does not keep."""
    document = made.report()
    document["models"][1]["cells"][0]["latency_ms"]["value"] = float("inf")
    place = write_run(tmp_path / "runs" / "x", made.report())
    (place / "report.json").write_text(json.dumps(document))
    site = Site(tmp_path / "runs")
    assert "report.json is damaged" in site.get(f"/runs/{site.id('x')}")
    assert "broken" in rows(site.get("/"))["x"]
    site.desk.close()


def test_one_run_alone_is_a_page_too(tmp_path: Path) -> None:
    site = Site(write_run(tmp_path / "alone", made.report(), ("gguf:Q8_0",)))
    assert set(rows(site.get("/"))) == {"alone"}
    assert "/compare" not in site.get("/")
    assert "alone gguf:Q8_0" in site.get("/try")
    site.desk.close()


def test_seeds_are_runs_of_their_own(tmp_path: Path) -> None:
    several = {**made.report(), "seeds": {"seeds": [0, 1]}}
    write_run(tmp_path / "runs" / "x", several)
    write_run(tmp_path / "runs" / "x" / "seed-0", made.report(), ("gguf:Q8_0",))
    found = Runs(tmp_path / "runs")
    assert {run.name for run in found.all()} == {"x", "x/seed-0"}
    assert [file.title for file in found.files()] == ["x/seed-0 gguf:Q8_0"]


# --- comparing ------------------------------------------------------------------


def compared(site: Site, *names: str) -> str:
    return site.get("/compare", params={"run": [site.id(name) for name in names]})


def test_two_runs_side_by_side_with_their_frontier(site: Site) -> None:
    page = compared(site, "quickstart", "smaller")
    for words in ("quickstart · smaller", "quality kept", "withheld", "Quality against size", 'scope="row"'):
        assert words in page
    assert "They differ in" not in page


def test_runs_of_two_tasks_say_what_does_not_compare(site: Site) -> None:
    page = compared(site, "quickstart", "group/vectors")
    assert "task differs: don&#39;t compare quality and speed" in page
    assert "They differ in task" in page
    assert "Quality against size" not in page


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "at least two"),
        (("quickstart",), "at least two"),
        (("quickstart", "live"), "live is left out"),
        (("quickstart", "no-json"), "no-json is left out"),
        (("quickstart", "smaller", "linked"), "linked is left out"),
        (("quickstart", EVIL), "They differ in"),
    ],
)
def test_what_cannot_be_compared_is_said(site: Site, names: tuple[str, ...], said: str) -> None:
    page = compared(site, *names)
    assert said in page
    assert "<img" not in page


def test_ids_that_are_none_are_said(site: Site) -> None:
    assert "2 of the runs asked for are not there" in site.get("/compare?run=../../etc&run=nothing")


# --- trying ---------------------------------------------------------------------


def test_files_can_be_chosen_and_are_marked(site: Site) -> None:
    page = site.get("/try", params={"left": f"{site.id('quickstart')}/quickstart-gguf-Q8_0"})
    assert re.search(r'quickstart-gguf-Q8_0" selected>quickstart gguf:Q8_0 \(0\.0 MB\)', page)
    assert "gguf:Q4_0 (0.0 MB, a gate failed)" in page
    for name in ("left", "right", "asked", "second", "max_tokens", "temperature"):
        assert f'<label for="{name}"' in page
        assert f'id="{name}"' in page
    assert page.count('aria-live="polite"') == 2


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"text": "hi"}, "no file is chosen"),
        ({"text": "hi", "left": "../../etc/passwd"}, "no such file in these runs"),
        ({"text": "hi", "left": "quickstart-0/../../x"}, "no such file in these runs"),
        ({"text": " ", "left": "LEFT"}, "there is no text"),
        ({"text": "hi", "left": "LEFT", "max_tokens": "1e99"}, "no count of tokens"),
        ({"text": "hi", "left": "LEFT", "max_tokens": "x"}, "no count of tokens"),
        ({"text": "hi", "left": "LEFT", "temperature": "nan"}, "the temperature"),
    ],
)
def test_what_cannot_be_asked_is_said_in_the_form(site: Site, fields: dict[str, str], said: str) -> None:
    file = f"{site.id('quickstart')}/quickstart-gguf-Q8_0"
    fields = {name: value.replace("LEFT", file) for name, value in fields.items()}
    answer = site.post("/try", 409, {**fields, "second": EVIL})
    assert said in answer.text
    assert "<img" not in answer.text
    assert json.loads(site.post("/try", 409, fields, Accept="application/json").text)["error"].count(said) == 1


def test_stop_and_new_chat_work_with_nothing_at_work(site: Site) -> None:
    assert site.post("/try/stop", 303).headers["location"] == "/try#answers"
    assert site.post("/try/new", 303).headers["location"] == "/try"
    assert "event: end" in site.get("/try/events")


# --- who may ask ----------------------------------------------------------------


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8617", "192.168.1.7:8617", "",
                                  "localhost@evil.example", "0.0.0.0:8617", "127.0.0.1:8617 evil"])  # fmt: skip
def test_another_host_is_refused(site: Site, host: str) -> None:
    for address in ("/", "/try/events", "/static/ui.css"):
        assert "this machine alone" in site.get(address, 403, headers={"Host": host})


@pytest.mark.parametrize("host", ["localhost:8617", "127.0.0.1", "[::1]:9000", "LOCALHOST:1"])
def test_every_name_of_this_machine_serves(site: Site, host: str) -> None:
    site.get("/", headers={"Host": host})


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:8617", "http://127.0.0.1:9999",
                                    "http://localhost:8617", ""])  # fmt: skip
def test_a_form_of_another_origin_is_refused(site: Site, origin: str) -> None:
    for address in ("/try", "/try/stop", "/try/new"):
        assert "Only the page itself" in site.post(address, 403, Origin=origin).text
    assert site.client.post("/try/stop", data={"a": "b"}).status_code == 403  # with none at all


def test_only_small_forms_are_read(site: Site) -> None:
    assert site.client.post("/try", json={}, headers={"Origin": HOME}).status_code == 415
    site.post("/try", 413, {"text": "x" * MOST_BYTES})
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        assert site.client.request(method, "/").status_code == 405
    assert site.client.post("/", data={"a": "b"}, headers={"Origin": HOME}).status_code == 405


def test_every_answer_keeps_the_browser_from_more(site: Site) -> None:
    for address in ("/", "/try", f"/runs/{site.id(EVIL)}", "/nothing", "/static/ui.js"):
        headers = site.client.get(address).headers
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers


def test_nothing_of_a_page_comes_from_elsewhere(site: Site) -> None:
    for address in ("/", "/try", "/compare", f"/runs/{site.id('live')}", "/static/ui.js", "/static/ui.css"):
        page = site.get(address)
        assert re.findall(r'(?:src|href|action|url\()=?["\']?(?:https?:)?//', page) == []
        assert page.count("<script") == page.count('<script src="/static/ui.js"')
        assert not re.findall(r"<[^>]*\s(?:on\w+|style)=", re.sub(r'"[^"]*"', '""', page))


# --- what is hostile ------------------------------------------------------------


def test_what_a_run_says_is_escaped_everywhere(site: Site) -> None:
    for name in (EVIL, "failed", "live"):
        page = site.get(f"/runs/{site.id(name)}")
        assert "&lt;img src=x" in page
        assert "<img" not in page
    assert "<img" not in site.get("/")
    assert "<img" not in site.get("/try")
    assert re.fullmatch(r"[A-Za-z0-9-]+", site.id(EVIL))


@pytest.mark.parametrize("run", ["%2e%2e", "..%2f..%2fetc", "quickstart", "%2Fetc%2Fpasswd", "%00", "a" * 5000])
def test_a_run_is_addressed_by_its_id_alone(site: Site, run: str) -> None:
    for rest in ("", "/progress", "/files/report.json"):
        answer = site.client.get(f"/runs/{run}{rest}")
        assert answer.status_code == 404
        assert "root:" not in answer.text


def test_only_documents_of_the_run_itself_are_given(site: Site, tmp_path: Path) -> None:
    run = site.id("quickstart")
    for name in (
        "exports.json",
        "..%2fsmaller%2freport.json",
        "%2e%2e",
        "exports/quickstart-gguf-Q8_0/model.gguf",
        "x",
    ):
        site.get(f"/runs/{run}/files/{name}", 404)
    for name in ("linked", "leads-out"):
        site.get(f"/runs/{site.id(name)}/files/report.json", 404)
    place = write_run(tmp_path / "runs" / "x", made.report())
    (place / "report.md").symlink_to("/etc/passwd")
    os.mkfifo(place / "model_card.md")
    (place / "exports").mkdir()
    (place / "exports" / "x-gguf-Q8_0").symlink_to("/etc")
    other = Site(tmp_path / "runs")
    for name in ("report.md", "model_card.md"):
        other.get(f"/runs/{other.id('x')}/files/{name}", 404)
    assert other.runs.files() == []
    assert "All 9 gates passed" in other.get(f"/runs/{other.id('x')}")
    other.desk.close()


def test_a_document_is_shown_in_a_sandbox(tmp_path: Path) -> None:
    place = write_run(tmp_path / "runs" / "x", made.report())
    (place / "report.html").write_text("<script>alert(1)</script>")
    (place / "report.md").write_text("<script>alert(1)</script>")
    site = Site(tmp_path / "runs")
    for name, kind in (("report.html", "text/html"), ("report.md", "text/plain"), ("report.json", "application/json")):
        headers = site.client.get(f"/runs/{site.id('x')}/files/{name}").headers
        assert headers["content-security-policy"].startswith("sandbox;")
        assert headers["content-type"] == f"{kind}; charset=utf-8"
    site.desk.close()


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100_000, b'{"step": 1e999, "loss": NaN}\n' * 3, b"\0" * 100,
                                     b'{"step": 1' + b"0" * 400 + b', "loss": 1.0}\n'])  # fmt: skip
def test_logs_of_any_bytes_are_shown(content: bytes, tmp_path: Path) -> None:
    place = running(tmp_path / "runs" / "x")
    (place / "train.jsonl").write_bytes(content)
    (place / "run.log").write_bytes(content)
    site = Site(tmp_path / "runs")
    site.get(f"/runs/{site.id('x')}")
    site.get(f"/runs/{site.id('x')}/progress")
    site.desk.close()


def test_a_bug_is_a_page_and_not_the_end(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError(EVIL)

    monkeypatch.setattr(listing.Runs, "all", fails)
    client = TestClient(Pages(site.runs, site.desk).app(), base_url=HOME, raise_server_exceptions=False)
    answer = client.get("/")
    assert answer.status_code == 500
    assert "This is a bug: RuntimeError" in answer.text
    assert "<img" not in answer.text
    assert client.get("/static/ui.css").status_code == 200
