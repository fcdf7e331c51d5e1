"""What goes with a file: predict.py alone gives what `distill2edge chat` gives, and USE.md and Modelfile are right."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from modelfile import parse_modelfile
from tiny import tiny_bert, tiny_llama, tiny_t5

from distill2edge.cli.main import main
from distill2edge.data.model_inputs import InputForm
from distill2edge.export.gguf import export_gguf
from distill2edge.export.onnx import export_onnx
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.util.progress import SilentProgress

TEXTS = ("a good film", "  the dog\ncafé 12 ", "the fox jumps " * 40)
FORMS = {
    "chat": InputForm("decoder", "chat", 'Be "brief".', 256, (), "{{ q }}"),
    "plain": InputForm("decoder", "plain", None, 256, (), "Q: {{ q }}\nA:"),
    "choices": InputForm("decoder", "plain", None, 256, (" bad", " good film", " good")),
    "labels": InputForm("classifier", max_length=40),
    "seq2seq": InputForm("seq2seq", max_length=256),
    "seq2seq-choices": InputForm("seq2seq", max_length=256, choices=("bad", "good film")),
}
SCHEMES = ("onnx:fp32", "onnx:int8", "gguf:F32", "gguf:Q8_0")
# Refuses every import but the standard library's and those named: what a clean environment would not have.
HOOK = """
import sys
allowed = set(sys.argv[1].split(","))
class Hook:
    def find_spec(self, name, path=None, target=None):
        root = name.split(".")[0]
        if root not in allowed and root not in sys.stdlib_module_names:
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Hook())
import runpy
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
ALLOWED = {
    "onnx": "onnxruntime,numpy,tokenizers,flatbuffers,google,packaging",
    "gguf": "llama_cpp,numpy,jinja2,markupsafe,diskcache,typing_extensions",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    tiny_llama(root / "decoder", layers=1)
    tiny_bert(root / "classifier", labels=("bad", "go`od\nfilm"), scale=0.3)
    tiny_t5(root / "seq2seq", layers=1)
    return root


@pytest.fixture(scope="module")
def exported(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    root, made = tmp_path_factory.mktemp("exports"), {}

    def get(name: str, scheme: str) -> Path:
        if (name, scheme) not in made:
            form, parsed = FORMS[name], parse_scheme(scheme)
            directory = root / f"{name}-{parsed.slug}"
            export = export_onnx if parsed.format == "onnx" else export_gguf
            meta = {"name": "a *model*", "input": form.dumps()}
            export(models / form.kind, parsed, meta, directory, SilentProgress())
            made[name, scheme] = directory
        return made[name, scheme]

    return get


def chat(directory: Path, text: str) -> str:
    shown = CliRunner().invoke(main, ["chat", str(directory), "--prompt", text, "--max-tokens", "8"])
    assert shown.exit_code == 0, shown.output
    return shown.stdout


def predict(directory: Path, *words: str, given: str | None = None, python: str = sys.executable) -> str:
    command = [python, "-I", "-c", HOOK, ALLOWED["onnx" if "onnx" in directory.name else "gguf"]]
    done = subprocess.run(
        [*command, str(directory / "predict.py"), "--max-tokens", "8", *words],
        input=given,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        # Their graphs take long to trace: tests/end_to_end/test_end_to_end_seq2seq.py asks one's `predict.py`.
        pytest.param(
            name, scheme, marks=pytest.mark.slow if (FORMS[name].kind, scheme) == ("seq2seq", "onnx:fp32") else ()
        )
        for name in FORMS
        for scheme in ("onnx:fp32", "gguf:F32")
    ],
)
def test_predict_alone_gives_what_chat_gives(exported: Any, name: str, scheme: str) -> None:
    directory = exported(name, scheme)
    wanted = [chat(directory, text) for text in TEXTS[:2]]
    assert predict(directory, TEXTS[0]) == wanted[0]
    assert predict(directory, given=TEXTS[1] + "\n") == wanted[1]
    texts = [TEXTS[0], TEXTS[2]] if FORMS[name].kind == "classifier" else TEXTS[:1]  # of one line each
    answers = [chat(directory, text).removesuffix("\n") for text in texts]
    if FORMS[name].kind != "classifier" and not FORMS[name].choices:
        answers = [answer.replace("\n", "\\n") for answer in answers]
    said = predict(directory, "--lines", given="".join(f"{text}\n" for text in texts))
    assert said == "".join(f"{answer}\n\n" for answer in answers)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("scheme", ["onnx:int8", "gguf:Q8_0"])
def test_predict_gives_what_chat_gives_in_stored_types(exported: Any, name: str, scheme: str) -> None:
    directory = exported(name, scheme)
    for text in TEXTS:
        assert predict(directory, text) == chat(directory, text)


@pytest.mark.parametrize("scheme", ["onnx:fp32", "gguf:F32"])
def test_use_says_labels_prompt_system_stops_and_lengths(exported: Any, scheme: str) -> None:
    said = (exported("chat", scheme) / "USE.md").read_text()
    assert 'Be "brief".<|im_end|>\n<|im_start|>user\n{your text}<|im_end|>' in said
    assert "`<|im_end|>`" in said
    assert "at most 256" in said
    assert r"# a \*model\*" in said
    said = (exported("labels", scheme) / "USE.md").read_text()
    assert "- `bad`\n- `` go`od film ``" in said
    assert "cut at 40 tokens" in said
    said = (exported("choices", scheme) / "USE.md").read_text()
    assert '- `" good film"`' in said
    said = (exported("plain", scheme) / "USE.md").read_text()
    assert "```text\nQ: {{ q }}\nA:\n```" in said
    packages = "onnxruntime tokenizers numpy" if scheme.startswith("onnx") else "llama-cpp-python"
    assert f"pip install {packages}\n" in said
    for line in said.splitlines():
        assert "{%" not in line


def test_a_modelfile_stands_beside_a_gguf_decoder_alone(exported: Any) -> None:
    for name, form in FORMS.items():
        assert (exported(name, "gguf:F32") / "Modelfile").is_file() == (form.kind == "decoder")
        if form.kind == "decoder":
            assert not (exported(name, "onnx:fp32") / "Modelfile").exists()
    plain = (exported("plain", "gguf:F32") / "Modelfile").read_text()
    assert "FROM ./model.gguf\n" in plain
    assert 'TEMPLATE """{{ .Prompt }}"""' in plain
    assert 'PARAMETER stop "<|im_end|>"\n' in plain


def test_the_template_of_the_modelfile_writes_the_chat_as_trained(exported: Any) -> None:
    from distill2edge.running.opening import open_model

    directory = exported("chat", "gguf:F32")
    said = dict(parse_modelfile((directory / "Modelfile").read_text()))
    assert said["SYSTEM"] == FORMS["chat"].system
    loaded = open_model(directory)
    chats = [
        [("user", "a\nb")],
        [("user", "a"), ("assistant", "b"), ("user", "c")],
        [("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c")],
    ]
    for messages in chats:
        chat_ = [{"role": role, "content": content} for role, content in messages]
        wanted = loaded.encode_chat(chat_)
        if messages[0][0] == "system":  # chat itself puts the trained one first
            from distill2edge.data.chat_templates import apply_template
            from distill2edge.data.conversation import Conversation
            from distill2edge.data.tokens import tokenize

            trained = apply_template(loaded.tokenizer, Conversation(tuple(chat_)), generation=True)
            wanted = tokenize(loaded.tokenizer, [trained])[0]
        first = [] if messages[0][0] == "system" else [("system", said["SYSTEM"])]  # Ollama puts it there
        assert (
            loaded.tokenizer([go(said["TEMPLATE"], [*first, *messages])], add_special_tokens=False)["input_ids"][0]
            == wanted
        )
    loaded.runtime.close()


def go(template: str, messages: list[tuple[str, str]]) -> str:
    """What Ollama makes of the template: the few actions of Go's template language that it has."""
    literals = [json.loads(text) for text in re.findall(r'\{\{ ("(?:[^"\\]|\\.)*") \}\}', template)]
    system, first, after, following, answer = literals
    text = ""
    for index, (role, content) in enumerate(messages):
        if role == "system":
            text += system + content
        elif role == "user":
            begun = messages[0][0] == "system"
            text += (first if index == 0 else after if index == 1 and begun else following) + content + answer
        else:
            text += content
    return text


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "gguf"])
def test_predict_runs_in_a_clean_environment(exported: Any, form: str, tmp_path: Path) -> None:
    """With the packages that USE.md names, from the index, and nothing else. llama-cpp-python is built for minutes
    where no wheel of it is at hand, so that one package is lent by this environment."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    packages = ["onnxruntime", "tokenizers", "numpy"] if form == "onnx" else ["numpy", "jinja2", "diskcache"]
    if form == "gguf":
        import llama_cpp

        packages.append("typing_extensions")
        site = next((tmp_path / "venv" / "lib").glob("python*")) / "site-packages"
        (site / "llama_cpp").symlink_to(Path(llama_cpp.__file__).parent)
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages]
    subprocess.run(install, check=True, capture_output=True)
    for absent in ("torch", "transformers", "distill2edge"):
        assert (
            subprocess.run([python, "-I", "-c", f"import {absent}"], capture_output=True, check=False).returncode != 0
        )
    scheme = "onnx:int8" if form == "onnx" else "gguf:Q8_0"
    for name in FORMS:
        directory = exported(name, scheme)
        for text in TEXTS[:2]:
            done = subprocess.run(
                [python, "-I", str(directory / "predict.py"), "--max-tokens", "8", text],
                capture_output=True,
                text=True,
                check=True,
                env={"PATH": os.environ["PATH"]},
            )
            assert done.stdout == chat(directory, text)


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_a_merged_directory_says_how_it_was_trained_to_read(template: str, tmp_path: Path) -> None:
    """As every export does: it is the file of those who go on with PyTorch."""
    from transformers import AutoTokenizer

    from distill2edge.data.model_inputs import InputForm, read_form
    from distill2edge.handover.write import hand_over_model

    tiny_llama(tmp_path / "trained")
    raw = json.loads((tmp_path / "trained" / "tokenizer.json").read_text())
    raw["padding"] = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 2,
                      "pad_type_id": 0, "pad_token": "<|im_end|>"}  # fmt: skip
    raw["truncation"] = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "trained" / "tokenizer.json").write_text(json.dumps(raw))
    shutil.copytree(tmp_path / "trained", tmp_path / "model")
    settings = json.loads((tmp_path / "model" / "config.json").read_text()) | {"use_cache": True, "mine": 1}
    (tmp_path / "model" / "config.json").write_text(json.dumps(settings))
    system = "Be brief." if template == "chat" else None
    hand_over_model(tmp_path / "model", tmp_path / "trained", InputForm("decoder", template, system, 32))
    first = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}

    form = read_form(tmp_path / "model")
    assert form is not None
    assert (form.template, form.system, form.max_length, form.stop) == (template, system, 32, (2,))
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "model")
    said = tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False)
    assert (
        said
        == {
            "plain": "hello",
            "chat": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n",
        }[template]
    )
    written = json.loads((tmp_path / "model" / "tokenizer.json").read_text())
    assert (written["padding"], written["truncation"]) == (None, None)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["mine"] == 1  # the merged model's own
    # A student that was merged before is merged again after a further round: nothing piles up.
    hand_over_model(tmp_path / "model", tmp_path / "model", form)
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == first
