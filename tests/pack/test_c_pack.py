"""`pack --target c`: built with CMake against llama.cpp, it writes the native tokens and finds what is planted."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import llama_cpp
import pytest
from click.testing import CliRunner
from made_run import made_run, write_readable
from tiny import tiny_llama

from distill2edge.cli.main import main
from distill2edge.data.model_inputs import InputForm

INSTALLED = Path(llama_cpp.__file__).parent.parent
"""llama-cpp-python brings llama.cpp's headers and its CMake package."""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("cmake") is None, reason="no CMake here"),
]


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, errors="replace", check=False)


def test_a_program_writes_the_native_tokens_and_proves_itself(tmp_path: Path) -> None:
    write_readable(tiny_llama(tmp_path / "decoder", layers=1, tied=False), tmp_path / "decoder")
    finished = made_run(tmp_path, {"gguf:Q8_0": InputForm("decoder", "chat", 'Be "brief" - naïve?', 256)})
    pack = tmp_path / "c"
    done = CliRunner().invoke(main, ["pack", str(finished), "--target", "c", "--out", str(pack)])
    assert done.exit_code == 0, done.output
    assert run("sha256sum", "-c", "SHA256SUMS", cwd=pack).returncode == 0
    for words in (("-B", "build", f"-DCMAKE_PREFIX_PATH={INSTALLED}"), ("--build", "build")):
        made = run("cmake", *words, cwd=pack)
        assert made.returncode == 0, made.stdout + made.stderr
    native = run(sys.executable, "predict.py", "--max-tokens", "24", "a good film é", cwd=pack)
    said = run("build/ask", "a good film é", "24", cwd=pack)
    assert said.stdout == native.stdout
    assert "tokens/s" in said.stderr
    proof = run("build/ask", "--selftest", cwd=pack)
    found = json.loads(proof.stdout)
    assert (proof.returncode, found["passed"], found["different_prompts"]) == (0, True, 0)
    assert found["kl"] < 1e-6

    with open(pack / "model.gguf", "r+b") as file:  # other weights of the same shape
        file.seek(-4000, 2)
        file.write(b"\x11" * 2000)
    spoilt = run("build/ask", "--selftest", cwd=pack)
    assert spoilt.returncode == 3
    assert "it computes otherwise" in spoilt.stderr
