"""What commands and image sets import: nothing that takes seconds, as long as nothing is computed."""

import os
import subprocess
import sys

import pytest
from workshop import Workshop, stages_run

HEAVY = ["torch", "torchvision", "papermill", "matplotlib", "nbformat", "nbclient", "diffusers", "transformers"]
HEAVY += ["nbconvert", "jsonschema", "pandas", "sklearn"]
IN_ORDER = """
import sys
from typer.testing import CliRunner
from dc3.cli import app, joined_pairs

def check(moment):
    heavy = sys.modules.keys() & set({heavy})
    assert not heavy, f"{{moment}}: {{sorted(heavy)}}"

def command(*arguments):
    return CliRunner().invoke(app, joined_pairs(list(arguments)))

check("import dc3.cli")
assert "ipc" in command("params").output
check("dc3 params")
refused = command("run", "params/demo.yaml", "-p", "icp", "50")
assert refused.exit_code == 2 and "did you mean ipc" in refused.output, refused.output
check("a mistyped parameter")
"""
UP_TO_DATE = """
import sys
from typer.testing import CliRunner
from dc3.cli import app
result = CliRunner().invoke(app, ["run", sys.argv[1]])
assert result.exit_code == 0, result.output
heavy = sys.modules.keys() & set({heavy})
assert not heavy, sorted(heavy)
"""


def run(script, *arguments, **options):
    command = [sys.executable, "-c", script.format(heavy=HEAVY), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, **options)
    assert result.returncode == 0, result.stderr


def test_commands_that_compute_nothing_import_nothing_heavy(request):
    run(IN_ORDER, cwd=request.config.rootpath)


def test_papermill_comes_without_the_grammar_of_web_addresses():
    run("import sys, papermill, nbformat, jsonschema\nassert 'lark' not in sys.modules")


def test_what_suits_a_convnet_is_known_without_torchs_compiler():
    check = "networks.check_size('conv4', 32)"
    run(f"import sys\nfrom dc3.models import networks\n{check}\nassert 'torch._dynamo' not in sys.modules")


def test_image_sets_are_read_without_torch():
    modules = "dc3.images.image_set, dc3.images.datasets, dc3.images.decoding"
    load = "images = dc3.images.datasets.load('scenes10', 'test', images_per_class=1).images([0], 32)"
    run(f"import sys, {modules}\n{load}\nassert 'torch' not in sys.modules")


@pytest.mark.process
def test_a_run_that_is_up_to_date_imports_nothing_heavy(tmp_path):
    workshop = Workshop(tmp_path)
    assert stages_run(workshop.dc3("run", workshop.params)) == ["00_count", "01_total"]
    places = {"DC3_HOME": str(workshop.root), "DC3_NOTEBOOKS": str(workshop.notebooks)}
    run(UP_TO_DATE, workshop.params, env=os.environ | places)
