"""The page in a browser, at 1,300 pixels and on a phone: what the geometry of the charts takes for granted."""

from __future__ import annotations

import html
import json
import re
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import report_fixtures as made
from browser import CHROMIUM

from distill2edge.report.html import render_html
from distill2edge.report.svg import LABEL, TICK, text_width

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")]

# Every text of every chart in drawing units, ids whose lines break inside a word, and how wide page and tables are.
MEASURE = """<script>window.onload = () => {
  const texts = [...document.querySelectorAll('svg.chart')].flatMap((svg, chart) => {
    const frame = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / frame.width;
    return [...svg.querySelectorAll('text')].map(text => {
      const box = text.getBoundingClientRect();
      return [chart, text.getAttribute('class'), text.textContent, (box.left - frame.left) * scale,
              (box.top - frame.top) * scale, (box.right - frame.left) * scale, (box.bottom - frame.top) * scale];
    });
  });
  const broken = [...document.querySelectorAll('tbody th.mono')].flatMap(cell =>
    [...cell.childNodes].filter(node => node.nodeType == 3 && /^[\\w:.@/]+$/.test(node.data)).filter(node => {
      const range = document.createRange(); range.selectNodeContents(node); return range.getClientRects().length > 1;
    }).map(node => node.data));
  const cut = [...document.querySelectorAll('.scroll')].filter(box => box.scrollWidth > box.clientWidth + 1);
  const root = document.documentElement, found = document.createElement('pre');
  found.id = 'found';
  found.textContent = JSON.stringify({texts, broken, cut: cut.map(box => box.ariaLabel),
                                      over: root.scrollWidth - root.clientWidth});
  window.parent.document.body.appendChild(found);
};</script>"""


def measure(page: str, width: int, place: Path) -> dict[str, Any]:
    """The page in a frame of that width: a window of its own is never as narrow as a phone."""
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page).replace("</head>", f"{MEASURE}</head>")
    frame = f'<iframe srcdoc="{html.escape(page)}" style="border:0;width:{width}px;height:3000px"></iframe>'
    (place / "frame.html").write_text(f"<!doctype html><body style='margin:0'>{frame}</body>", encoding="utf-8")
    command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={place / 'user'}",
               "--window-size=1400,3000", "--virtual-time-budget=3000", "--dump-dom",
               (place / "frame.html").as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.S)
    assert found is not None, done.stderr[-2000:]
    return dict(json.loads(html.unescape(found[1])))


@pytest.mark.parametrize("width", [1300, 390])
@pytest.mark.parametrize("passing", [True, False])
def test_the_page_can_be_read(width: int, passing: bool, tmp_path: Path) -> None:
    found = measure(render_html(made.report(passing=passing, judged=True)), width, tmp_path)
    assert found["over"] <= 0  # the page itself never scrolls sideways
    assert found["broken"] == []
    if width == 1300:
        assert found["cut"] == []
    assert len(found["texts"]) > 60
    for _, kind, said, left, _, right, _ in found["texts"]:
        assert right - left <= text_width(said, LABEL if "label" in kind.split() else TICK) + 0.5, said
    for one, other in combinations(found["texts"], 2):
        if one[0] == other[0]:
            wide = min(one[5], other[5]) - max(one[3], other[3])
            high = min(one[6], other[6]) - max(one[4], other[4])
            assert wide < 0.5 or high < 3, (one[2], other[2])  # boxes of a line have air above and below the letters
