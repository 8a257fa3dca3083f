"""Factories named on the command line."""

import sys
from pathlib import Path

import pytest
from torch import nn

from edgelung.converters.architecture import load_factory
from edgelung.errors import InputError

MODULE = """
import sys
import torch
class Networks:
    small = staticmethod(lambda: torch.nn.Conv2d(1, 1, 1))
Linear = lambda: torch.nn.Linear(2, 2)
def late():
    import {name}_helper
    return {name}_helper.build()
def failing(): raise RuntimeError("no GPU")
def leaving(): sys.exit(2)
def asking(width): return torch.nn.Linear(width, 1)
def number(): return 3
def long(): raise ValueError("one\\ntwo")
def nothing(): pass
def kind(): return torch.nn.Conv2d
def pair(): return torch.nn.Linear(2, 2), 3
def script(): return torch.jit.script(torch.nn.Linear(2, 2))
network = torch.nn.Linear(2, 2)
constant = 7
"""


@pytest.fixture
def module(tmp_path, monkeypatch, request):
    """Name of a module that lies in the current folder and nowhere else."""
    name = f"factories_{abs(hash(request.node.name)):x}"
    (tmp_path / f"{name}.py").write_text(MODULE.format(name=name))
    (tmp_path / f"{name}_helper.py").write_text("import torch\nbuild = lambda: torch.nn.Linear(3, 3)\n")
    (tmp_path / f"{name}_broken.py").write_text("import no_such_package\n")
    (tmp_path / f"{name}_script.py").write_text("raise SystemExit(1)\n")
    (tmp_path / f"{name}_typo.py").write_text("def build(:\n")
    monkeypatch.chdir(tmp_path)
    yield name
    for loaded in [key for key in sys.modules if key.startswith(name)]:
        del sys.modules[loaded]


@pytest.mark.parametrize("attribute", ["Linear", "Networks.small", "late"])
def test_factories_in_the_current_folder(module, attribute):
    before = list(sys.path)
    factory = load_factory(f"{module}:{attribute}")
    assert isinstance(factory(), nn.Module)
    assert sys.path == before


def test_installed_packages_come_before_the_current_folder(module):
    Path("colorsys.py").write_text("raise RuntimeError('the wrong one')\n")
    sys.modules.pop("colorsys", None)
    with pytest.raises(InputError, match=r"lib.*colorsys\.py\) has no 'build'"):
        load_factory("colorsys:build")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("{module}", "names no factory.*package.module:factory"),
        (":build", "names no factory"),
        ("{module}:", "names no factory"),
        ("no_such_module_at_all:build", "no module 'no_such_module_at_all', neither installed nor in"),
        ("no_such_package.networks:build", "no module 'no_such_package'"),
        ("{module}:build", r"\.py\) has no 'build'"),
        ("{module}:Networks.large", "has no 'Networks.large'"),
        ("{module}:network", r"is a network \(Linear\), not a function that builds one"),
        ("{module}:constant", "is a int, not a function or class"),
        ("{module}_broken:build", "importing .*_broken raised ModuleNotFoundError: No module named 'no_such_package'"),
        ("{module}_script:build", "raised SystemExit"),
        ("{module}_typo:build", "raised SyntaxError"),
        ("..{module}:build", "importing .* raised"),
    ],
)
def test_names_that_lead_nowhere(module, name, reason):
    with pytest.raises(InputError, match=reason) as caught:
        load_factory(name.format(module=module))
    assert caught.value.field == "--arch" and caught.value.hint


@pytest.mark.parametrize(
    ("attribute", "reason"),
    [
        ("failing", r"failing\(\) raised RuntimeError: no GPU"),
        ("leaving", r"leaving\(\) raised SystemExit"),
        ("asking", "raised TypeError: .*width.*without arguments"),
        ("number", r"number\(\) returned a int, not a torch\.nn\.Module"),
        ("long", r"long\(\) raised ValueError: one; the factory"),
        ("nothing", r"nothing\(\) returned nothing; end it with: return model"),
        ("kind", r"returned the class Conv2d, not a network of it"),
        ("pair", r"pair\(\) returned a tuple; return the network alone"),
        ("script", "returned a TorchScript module.*the torch.nn.Module that it was made from"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated")
def test_factories_that_give_no_network(module, attribute, reason):
    factory = load_factory(f"{module}:{attribute}")
    with pytest.raises(InputError, match=reason):
        factory()
