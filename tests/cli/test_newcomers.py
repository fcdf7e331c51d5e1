"""What people write on their first day: refused with exit code 2, and the fix that is named works when applied."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from report_fixtures import report
from tiny import tiny_llama

from distill2edge.cli.main import main

BASE = """\
name: x
teacher: {model: llama, licence: apache-2.0}
data: {source: rows.jsonl, template: plain, splits: {validation: 8, calibration: 8, test: 16}, max_length: 32}
student: {init: {from: teacher, layers: 1}}
distill: {max_steps: 2}
export: [gguf:Q8_0]
bench: {workloads: [task], rounds: 1}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    tiny_llama(place / "llama")
    return place / "llama"


@pytest.fixture
def place(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a newcomer, who stands in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llama").symlink_to(model)
    rows = [{"prompt": f"Review: film {n} {n * 37}", "response": "ab"[n % 2]} for n in range(120)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with open(tmp_path / "t.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["text", "label"])
        table.writerows([f"film {n} the {n * 37} dog", "ab"[n % 2]] for n in range(120))
    (tmp_path / "r.yaml").write_text(BASE)
    return tmp_path


def run(*args: str) -> Result:
    result = CliRunner().invoke(main, list(args))
    assert result.exception is None or isinstance(result.exception, SystemExit), args
    return result


# What is written, what it stands in place of, what is said, and what to write in place of that again by the fix named.
RECIPES = [
    ("export: gguf:Q8_0", "export: [gguf:Q8_0]", "a list is wanted", "write [gguf:Q8_0]", "export: [gguf:Q8_0]"),
    ("export: gguf:Q8_0, onnx:int8", "export: [gguf:Q8_0]", "a list is wanted", "write [gguf:Q8_0, onnx:int8]",
     "export: [gguf:Q8_0, onnx:int8]"),
    ("export: []", "export: [gguf:Q8_0]", "at least 1", "take the key out", ""),
    ("export: [q8]", "export: [gguf:Q8_0]", "unknown scheme", "did you mean gguf:Q8_0?", "export: [gguf:Q8_0]"),
    ("max_steps: 1,000", "max_steps: 2", "", "", None),
    ('max_steps: "1,000"', "max_steps: 2", "a whole number", "write 1000", "max_steps: 1000"),
    ("max_steps: 1k", "max_steps: 2", "a whole number", "write 1000", "max_steps: 1000"),
    ("max_steps: two", "max_steps: 2", "a whole number", "give 1 to", "max_steps: 1"),
    ("max_steps: 2.5", "max_steps: 2", "a whole number", "write 2 or 3", "max_steps: 3"),
    ("control: maybe", "max_steps: 2", "true or false", "write true or false", "control: false"),
    ("student: llama", "student: {init: {from: teacher, layers: 1}}", "a section",
     "write student: {init: {model: llama}}", "student: {init: {model: llama}}"),
    ("loss: forward_kl", "max_steps: 2", "a section", "write loss: {forward_kl: 1}", "loss: {forward_kl: 1}"),
    ("validation: 0.1", "validation: 8", "a whole number", "write how many", "validation: 12"),
    ("validation: 10%", "validation: 8", "a whole number", "write how many", "validation: 12"),
    ("layers: all", "layers: 1", "a whole number", "how many layers, or which ones", "layers: 2"),
    ("layers: 99", "layers: 1", "99 layers", "give 1 to 2", "layers: 2"),
    ("student: {lora: true, init", "student: {init", "a section", "write lora: {}", "student: {lora: {}, init"),
    ("student: {lora: false, init", "student: {init", "a section", "write lora: null", "student: {lora: null, init"),
    ("student: {lora: , init", "student: {init", "nothing is written", "null where none is meant",
     "student: {lora: null, init"),
    ("template: plain, prompt: {{ prompt }},", "template: plain,", "a key is a list or mapping", "goes into quotes",
     'template: plain, prompt: "{{ prompt }}",'),
    ('template: plain, prompt: "{prompt}",', "template: plain,", "names no field", 'write data.prompt: "{{ prompt }}"',
     'template: plain, prompt: "{{ prompt }}",'),
    ('template: plain, prompt: "Q: ${prompt}",', "template: plain,", "names no field",
     'write data.prompt: "Q: {{ prompt }}"', 'template: plain, prompt: "Q: {{ prompt }}",'),
    ("template: plain, response: response,", "template: plain,", "names no field",
     'write data.response: "{{ response }}"', 'template: plain, response: "{{ response }}",'),
    ('template: plain, prompt: "{{ promt }}",', "template: plain,", "has a field 'promt'", "did you mean prompt?",
     'template: plain, prompt: "{{ prompt }}",'),
    ('template: plain, prompt: "{{ prompt }",', "template: plain,", "not valid Jinja", "fields are written {{ name }}",
     'template: plain, prompt: "{{ prompt }}",'),
    ("""template: plain, filter: "{{ response == 'a' }}",""", "template: plain,", "not valid Jinja",
     """write data.filter: "response == 'a'\"""", """template: plain, filter: "response == 'a'","""),
    ("""template: plain, filter: "prompt && response",""", "template: plain,", "not valid Jinja",
     """write data.filter: "prompt and response\"""", """template: plain, filter: "prompt and response","""),
    ("""template: plain, filter: "response = 'a'",""", "template: plain,", "not valid Jinja",
     """write data.filter: "response == 'a'\"""", """template: plain, filter: "response == 'a'","""),
    ("""template: plain, filter: "len(prompt) > 3",""", "template: plain,", "has a field 'len'",
     "Jinja writes len(x) as x | length", """template: plain, filter: "prompt | length > 3","""),
    ("""template: plain, filter: "response == 'A'",""", "template: plain,", "leaves none of the rows",
     "as the file writes it", """template: plain, filter: "response == 'a'","""),
    ("licence: apache-2.0, license: mit", "licence: apache-2.0", "unknown key 'license'", "did you mean licence?",
     "licence: mit"),
    ("exports: [gguf:Q8_0]", "export: [gguf:Q8_0]", "unknown key", "did you mean export?", "export: [gguf:Q8_0]"),
    ("name: My Model!", "name: x", "cannot name a run", "write name: my-model", "name: my-model"),
    ("name: null", "name: x", "is nothing", 'in quotes: "null"', 'name: "null"'),
    ("name: 7", "name: x", "YAML reads 7 as a number", 'in quotes: "7"', 'name: "7"'),
    ("name:x", "name: x", "not valid YAML", "put a blank after the colon of name: in line 1", "name: x"),
    ("name: x\ndescription: so: and so", "name: x", "not valid YAML", 'with ": " in it goes into quotes',
     'name: x\ndescription: "so: and so"'),
    ("distill:\n\tmax_steps: 2", "distill: {max_steps: 2}", "not valid YAML", "spaces, not tabs",
     "distill:\n  max_steps: 2"),
    ("distill:\n   max_steps: 2\n  epochs: 3", "distill: {max_steps: 2}", "not valid YAML", "begin in one column",
     "distill:\n   max_steps: 2\n   epochs: 3"),
    ("model: gpt-4o,", "model: llama,", "no model 'gpt-4o'", "model: endpoint:URL", "model: llama,"),
    ("model: ./lama,", "model: llama,", "no model './lama'", "did you mean llama?", "model: llama,"),
    ("model: rows.jsonl,", "model: llama,", "neither a directory", "rows belong to data.source", "model: llama,"),
    ('model: "https://huggingface.co/owner/name",', "model: llama,", "no model", "write its name: owner/name",
     "model: owner/name,"),
    ("source: row.jsonl", "source: rows.jsonl", "does not exist", "did you mean rows.jsonl?", "source: rows.jsonl"),
    ("source: llama", "source: rows.jsonl", "the directory of a model", "name a file of rows", "source: rows.jsonl"),
    ("source: r.yaml", "source: rows.jsonl", "a recipe", "name a file of rows", "source: rows.jsonl"),
    ("workloads: [chat_64_32]", "workloads: [task]", "unknown workload", "did you mean chat-64-32?",
     "workloads: [chat-64-32]"),
    ("choices: 'a, b', max_length: 32", "max_length: 32", "a list is wanted", "write [a, b]",
     "choices: [a, b], max_length: 32"),
    ("choices: {0: a, 1: b}, max_length: 32", "max_length: 32", "a list is wanted", "write [a, b]",
     "choices: [a, b], max_length: 32"),
    ("choices: [A, B], max_length: 32", "max_length: 32", "not one of data.choices",
     'write data.response: "{{ response | upper }}"',
     'choices: [A, B], response: "{{ response | upper }}", max_length: 32'),
    ("max_length: 32, splits_: 3", "max_length: 32", "unknown key", "did you mean splits?", "max_length: 32"),
    ("splits: {validation: 8, calibration: 8, test: 160}", "splits: {validation: 8, calibration: 8, test: 16}",
     "120 rows", "lower them: {validation: 20, calibration: 20, test: 20}",
     "splits: {validation: 20, calibration: 20, test: 20}"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "right", "said", "fix", "corrected"), RECIPES, ids=[case[0][:50] for case in RECIPES]
)
def test_a_wrong_recipe(place: Path, wrong: str, right: str, said: str, fix: str, corrected: str | None) -> None:
    assert right in BASE
    (place / "r.yaml").write_text(BASE.replace(right, wrong))
    result = run("recipe", "check", "r.yaml")
    assert result.exit_code == 2, result.output
    assert said in result.output
    assert fix in result.output
    assert "r.yaml:" in result.output
    if corrected is not None:
        (place / "r.yaml").write_text(BASE.replace(right, corrected))
        again = run("recipe", "check", "r.yaml")
        assert again.exit_code == 0, again.output


COMMANDS = [
    (["recipe", "new", "--data", "t.cvs"], "did you mean t.csv?"),
    (["recipe", "new", "--data", "."], "give one of its files: --data rows.jsonl (or t.csv)"),
    (["recipe", "new", "--data", "t.csv", "--label", "labl"], "did you mean label?"),
    (["recipe", "new", "--data", "t.csv", "--text", "label", "--label", "label"], "name two columns"),
    (["recipe", "new", "--data", "t.csv", "--task", "chat"], "as in --text text --label label"),
    (["recipe", "new", "--data", "one.csv", "--task", "classification"], "a second column"),
    (["recipe", "new", "--data", "in.jsonl"], "the fields are within data: jq -c .data in.jsonl > flat.jsonl"),
    (["recipe", "new", "--task", "classify"], "Did you mean 'classification'?"),
    (["recipe", "new", "--name", "My Bot"], "--name: 'My Bot' cannot name a run"),
    (["recipe", "examples", "quikstart"], "did you mean quickstart?"),
    (["recipe", "check", "rr.yaml"], "did you mean r.yaml?"),
    (["run", "t.csv"], "distill2edge recipe new --data t.csv > my.yaml"),
    (["plan", "."], "name a file: r.yaml"),
    (["plan", "r.yaml", "--set", "distill.epochs"], "write --set distill.epochs=VALUE"),
    (["plan", "r.yaml", "--set", "distil.epochs=3"], "did you mean distill?"),
    (["plan", "r.yaml", "--set", "export=gguf:Q8_0"], "write [gguf:Q8_0]"),
    (["run", "r.yaml", "--force", "distil"], "Did you mean 'distill'?"),
    (["run", "r.yaml", "--seeds", "a,b"], "write --seeds 0,1,2"),
    (["chat", "runs/flims", "--prompt", "x"], "did you mean runs/films?"),
    (["chat", "runs/films", "--prompt", "x", "--scheme", "q8"], "did you mean gguf:Q8_0? there are: gguf:Q8_0"),
    (["chat", "runs/films", "--prompt", "x", "--temperature", "nan"], "not a number"),
    (["chat", "runs/films", "--prompt", "x", "--max-tokens", "0"], "not in the range"),
    (["report", "flims"], "did you mean runs/films?"),
    (["compare", "runs/films"], "distill2edge compare RUN RUN"),
    (["compare", "runs/films", "runs/flims"], "did you mean runs/films?"),
    (["push", "runs/flims", "me/x"], "did you mean runs/films?"),
    (["push", "runs/films", "https://huggingface.co/me/x"], "write its name: me/x"),
    (["push", "runs/films", "me/a b"], "OWNER/NAME, of letters"),
    (["store", "ls", "--store", "nowhere"], "no store there"),
    (["store", "gc", "--days", "-1"], "not in the range"),
    (["data", "prepair", "r.yaml"], "Did you mean 'prepare'?"),
    (["bench", "t.csv"], "distill2edge recipe new --data t.csv"),
    (["pln", "r.yaml"], "Did you mean 'plan'?"),
    (["fetch", "bundled:movie-sentimet"], "did you mean bundled:movie-sentiment?"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "fix"), COMMANDS, ids=[" ".join(case[0])[:60] for case in COMMANDS])
def test_a_wrong_command(place: Path, command: list[str], fix: str) -> None:
    (place / "one.csv").write_text("text\n" + "".join(f"film {n} {n * 3} dog\n" for n in range(60)))
    nested = ({"data": {"text": f"film {n}", "label": "ab"[n % 2]}} for n in range(60))
    (place / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in nested))
    if "one.csv" not in command:
        (place / "one.csv").unlink()
    if "in.jsonl" not in command:
        (place / "in.jsonl").unlink()
    exported = place / "runs" / "films" / "exports" / "films-gguf-Q8_0"
    exported.mkdir(parents=True)
    (exported / "model.gguf").write_bytes(b"GGUF")
    (place / "runs" / "films" / "report.json").write_text(json.dumps(report()))
    result = run(*command)
    assert result.exit_code == 2, result.output
    assert fix in re.sub(r"\s+", " ", result.output)


def test_what_new_names_for_two_columns_works(place: Path) -> None:
    for task in ("chat", "seq2seq"):
        asked = run("recipe", "new", "--data", "t.csv", "--task", task)
        options = asked.output.rpartition("as in ")[2].split()
        made = run("recipe", "new", "--data", "t.csv", "--task", task, *options)
        assert made.exit_code == 0, made.output
