"""Native ops and the forms that ONNX gives for them, a few of each kind; all of them with benchmarks/forms.py."""

from collections.abc import Callable
from pathlib import Path

import conformance
import forms
import onnx
import pytest

EXPANDED = """
    test_gelu_tanh_2_expanded test_rms_normalization_2d_axis1_expanded test_castlike_FLOAT_to_FLOAT16_expanded
""".split()  # noqa: SIM905
INLINED = ["test_hardswish", "test_reduce_log_sum_exp_keepdims_example"]


def test_both_forms_have_the_same_results() -> None:
    named = {twin: native for native, twin in forms.twins()}
    jobs = [*((named[twin], twin) for twin in EXPANDED), *((name, "") for name in INLINED)]
    pairs = forms.run_all(jobs, processes=1)
    assert [pair.name for pair in pairs] == [*EXPANDED, *INLINED]
    assert {pair.status for pair in pairs} == {"alike"}


def test_every_expanded_case_has_its_native_one() -> None:
    pairs = forms.twins()
    assert len(pairs) == sum("_expanded" in name for name in conformance.names("node"))


def test_a_form_that_is_another_op_differs(monkeypatch: pytest.MonkeyPatch, machine_file: Callable[..., Path]) -> None:
    other = onnx.ModelProto()
    other.CopyFrom(conformance.load("node", "test_hardswish").model)
    other.graph.node[0].op_type = "Mish"
    monkeypatch.setattr(forms, "inlined", lambda model: other)
    target = str(machine_file(tiles=8))
    found = forms.held_together(("test_hardswish", "", target))
    # The evaluator says as well that Mish is not what the case expects, so the form is at fault, not the compiler.
    assert found.status == "bad form"
    monkeypatch.setattr(forms, "_by_the_evaluator", lambda form, case: True)
    found = forms.held_together(("test_hardswish", "", target))
    assert found.status == "differs"
    assert forms.faults([found])
