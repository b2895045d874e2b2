"""Every notebook opened by hand in JupyterLab in a real browser: "Run All", the panels, and what is saved.

Needs playwright and a Chromium of the system: `apt install chromium`, or another package of that name.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from finished_runs import make_run
from workshop import home_at

from dc3.machine.paths import HEADLESS, REPOSITORY
from dc3.runs.parameters import notebook_names
from dc3.runs.report import write_report

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.process,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]

QUICK = {  # the demo, as small as it goes
    **{"images_per_class": 40, "bins": 4, "map_images": 40, "ipc": 3, "edit_steps": 2, "student_width": 8},
    **{"student_epochs": 2, "evaluate_every": 1, "student_seeds": [0], "cross_networks": [], "smaller_ipcs": []},
    **{"nearest": 2, "dit_steps": 2, "dit_width": 12, "dit_depth": 1, "lora_steps": 1, "lora_rank": 1},
    **{"images_generated": 2, "dit_generate_steps": 1, "lora_generate_steps": 1, "compared": ["random", "submodular"]},
}
ALONE = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
MINUTES = 60_000  # milliseconds
NUMBERED = re.compile(r"\[\d+\]:")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder of `dc3 init` whose notebooks have quick defaults."""
    folder = tmp_path_factory.mktemp("lab") / "mine"
    subprocess.run([sys.executable, "-m", "dc3.cli", "init", str(folder)], check=True, capture_output=True)
    for path in (folder / "notebooks").glob("[0-9]*.ipynb"):
        content = json.loads(path.read_text(encoding="utf-8"))
        for cell in content["cells"]:
            cell.pop("outputs", None) if cell["cell_type"] != "code" else cell.update(outputs=[], execution_count=None)
            if "parameters" in cell["metadata"].get("tags", []):
                cell["source"] = quick("".join(cell["source"]))
        path.write_text(json.dumps(content), encoding="utf-8")
    return folder


def quick(source):
    """A parameters cell with the defaults of QUICK."""
    for name, value in QUICK.items():
        default = re.search(rf"^{name}: \S+ = (.*?)(?=  #|$)", source, re.MULTILINE)
        source = source[: default.start(1)] + repr(value) + source[default.end(1) :] if default else source
    return source


@pytest.fixture(scope="module")
def lab(workspace, tmp_path_factory):
    """The address of a JupyterLab that shows all cells of a notebook at once."""
    config = tmp_path_factory.mktemp("config")
    settings = config / "lab/user-settings/@jupyterlab/notebook-extension/tracker.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"windowingMode": "none"}', encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--no-browser", f"--port={port}", "--IdentityProvider.token=", "--ServerApp.root_dir=notebooks"]
    options += ["--allow-root", "--LabApp.news_url=None"]
    environment = {key: value for key, value in os.environ.items() if key not in (HEADLESS, "DC3_HOME")}
    environment |= {"JUPYTER_CONFIG_DIR": str(config), "PYTHONPATH": str(REPOSITORY)}
    log = (config / "log.txt").open("w")
    command = [sys.executable, "-m", "jupyterlab", *options]
    server = subprocess.Popen(command, cwd=workspace, env=environment, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(address, server, config / "log.txt")
        yield address
    finally:
        server.terminate()
        server.wait(30)


def wait_for(address, server, log):
    for _ in range(240):
        assert server.poll() is None, log.read_text(encoding="utf-8")
        try:
            return urllib.request.urlopen(f"{address}/api").read()
        except OSError:
            time.sleep(0.5)
    raise AssertionError(log.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with playwright.sync_playwright() as started:
        context = started.chromium.launch_persistent_context(
            str(tmp_path_factory.mktemp("profile")),
            executable_path=CHROMIUM,
            args=ALONE,
            viewport={"width": 1280, "height": 1000},
        )
        yield context
        context.close()


@pytest.fixture(scope="module")
def pages(workspace, lab, browser):
    """Opens a notebook in the browser, once, and executes all of its cells: the page."""
    opened = {}

    def run_all(name):
        if name not in opened:
            page = opened[name] = browser.new_page()
            page.goto(f"{lab}/lab/tree/{name}.ipynb")
            page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=3 * MINUTES)
            content = json.loads((workspace / f"notebooks/{name}.ipynb").read_text(encoding="utf-8"))
            execute_all(page, sum(cell["cell_type"] == "code" for cell in content["cells"]))
            page.keyboard.press("Control+s")
            page.wait_for_selector(".jp-mod-dirty", state="detached", timeout=MINUTES)
        return opened[name]

    return run_all


def execute_all(page, cells):
    """Runs all cells and waits for the last, or for an error."""
    prompts = page.locator(".jp-CodeCell .jp-InputPrompt")
    failed = page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']")
    deadline = time.monotonic() + 600
    while len(done := [text for text in prompts.all_text_contents() if NUMBERED.fullmatch(text)]) < cells:
        assert not failed.count(), failed.first.text_content()
        assert time.monotonic() < deadline, f"{len(done)} of {cells} cells are done"
        if set(prompts.all_text_contents()) <= {"[ ]:"}:  # JupyterLab ignores the command before its kernel is ready
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        page.wait_for_timeout(3000)
    assert not failed.count(), failed.first.text_content()


def picture(page):
    """What the picture of the panel shows: a URL of its own for each content."""
    return page.locator(".jupyter-widgets img").last.get_attribute("src")


@pytest.mark.parametrize("name", notebook_names(REPOSITORY / "notebooks"))
def test_run_all_ends_without_an_error_and_saves_no_blank_warnings(name, pages, workspace):
    pages(name)
    saved = json.loads((workspace / f"notebooks/{name}.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in saved["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells), "all cells were executed, in the saved page too"
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert all("".join(output["text"]).strip() for output in outputs if output.get("name") == "stderr")
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert (workspace / f"runs/demo/{name}/manifest.json").is_file()


def test_the_map_of_bins_shows_an_image_where_the_mouse_points(pages):
    page = pages("02_binning")
    points = page.locator(".dc3-map .p")
    shown = points.first.locator(".shown")
    points.first.scroll_into_view_if_needed()
    page.mouse.move(5, 5)
    assert points.count() == 40 and not shown.is_visible()
    assert page.locator(".dc3-map .before").is_visible(), "something stands there before the first pointing"
    points.first.locator("circle").hover(force=True)
    assert page.locator(".dc3-map .shown:visible image").count() == 1


def test_the_slider_of_picks_changes_the_picture_which_fits_the_page(pages):
    page = pages("03_sampling")
    before = picture(page)
    page.locator(".jupyter-widgets .noUi-handle").last.focus()
    page.keyboard.press("ArrowRight")
    last = "[...document.querySelectorAll('.jupyter-widgets img')].at(-1)"
    page.wait_for_function(f"before => {last}.getAttribute('src') != before", arg=before)
    image, cell = (page.locator(what).last.bounding_box() for what in (".jupyter-widgets img", ".jp-OutputArea-output"))
    assert image["x"] + image["width"] <= cell["x"] + cell["width"] + 1


def test_the_panel_of_edits_shows_the_image_at_once_and_then_its_edit(pages):
    page = pages("04_compensation")
    before = picture(page)
    page.locator(".jupyter-widgets .noUi-handle").first.focus()
    page.keyboard.press("ArrowRight")
    page.get_by_text("image 1 (chelsea): press edit").wait_for(timeout=MINUTES)
    source = picture(page)
    assert source != before
    page.get_by_role("button", name="edit", exact=True).click()
    page.get_by_text("image 1 (chelsea): source, sunny, rainy, gradient blend").wait_for(timeout=MINUTES)
    assert picture(page) not in (before, source)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_fits_a_small_screen_and_follows_the_readers_colours(scheme, browser, tmp_path):
    with home_at(tmp_path):
        make_run("toy")
        write_report("toy", tmp_path / "report.html")
    page = browser.new_page()
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto((tmp_path / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    accuracies = page.locator("table").first.bounding_box()
    assert accuracies["x"] + accuracies["width"] <= 390, "they are seen without scrolling"
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")
