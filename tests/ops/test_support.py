"""What is said to be supported is registered, and what is not is named with a reason."""

import importlib
import pkgutil

import onnx_ir as ir

import ipucc.codelets
import ipucc.ops
from ipucc.codelets import all as all_codelets
from ipucc.ops import all as all_ops
from ipucc.ops.support import supported, supported_ops


def test_known_ops():
    assert supported(ir.node("Conv", [])) is None
    assert supported(ir.node("FusedConv", [], domain="ipucc")) is None
    assert ("", "Softmax") in supported_ops()
    assert supported_ops() == sorted(supported_ops())


def test_unknown_ops_come_with_a_reason():
    assert "depend on data" in str(supported(ir.node("Range", [])))
    assert "Conv" in str(supported(ir.node("Conv", [], domain="elsewhere")))


def test_every_module_that_registers_something_is_loaded():
    for package, families, what in (
        (ipucc.ops, all_ops.FAMILIES, "lowering"),
        (ipucc.codelets, all_codelets.FAMILIES, "register"),
    ):
        for module in pkgutil.iter_modules(package.__path__):
            if module.name in ("all", "base", "builder"):
                continue
            loaded = importlib.import_module(f"{package.__name__}.{module.name}")
            if hasattr(loaded, what):
                assert module.name in families
