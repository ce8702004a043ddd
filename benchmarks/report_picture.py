"""The picture of a report in docs/report.md: the page of that example, drawn by Chromium.

spfl report runs/page     # as docs/report.md makes it
python benchmarks/report_picture.py runs/page/report.html --out docs/assets/report.png
"""

from __future__ import annotations

import argparse
import shutil
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

WIDTH, HEIGHT, SHOWN = 1240, 2150, 700  # of the window and of the picture, in pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(asked.report.resolve().as_uri())
        page.wait_for_selector("html[data-ready]", state="attached")
        shot = page.screenshot()
        browser.close()
    picture = Image.open(BytesIO(shot)).convert("RGB")
    picture = picture.resize((SHOWN, picture.height * SHOWN // picture.width), Image.Resampling.LANCZOS)
    picture.quantize(256, method=Image.Quantize.FASTOCTREE).save(asked.out, optimize=True)


if __name__ == "__main__":
    main()
