"""Diagnostics: what they print, what they refuse, what importing them costs."""

import json
import pickle
import re
import subprocess
import sys

import pytest

from ipucc.diagnostics import IDS, CompileError, Diagnostic, DoesNotFit, NumbersDiffer, error


def test_ids_are_well_formed_and_explained() -> None:
    assert all(re.fullmatch(r"IPU(0[1-9]|10)\d\d", key) for key in IDS)
    assert all(text and not text.endswith(".") for text in IDS.values())
    assert len(set(IDS.values())) == len(IDS)


def test_render_shows_place_notes_and_help() -> None:
    diagnostic = Diagnostic(
        "IPU0402",
        "error",
        "tile memory exceeded\ntile 113 needs 731 KiB, has 624 KiB",
        node="layer3.0/conv2",
        op="Conv",
        where="resnet50.onnx",
        notes=("37 of 1472 tiles overflow",),
        help=("try --precision fp16",),
    )
    assert diagnostic.render() == (
        "error[IPU0402]: tile memory exceeded\n"
        '  --> resnet50.onnx: node "layer3.0/conv2" (Conv)\n'
        "   |  tile 113 needs 731 KiB, has 624 KiB\n"
        "   = note: 37 of 1472 tiles overflow\n"
        "   = help: try --precision fp16"
    )


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"where": "--passes"}, "\n  --> --passes"),
        ({"node": "a"}, '\n  --> node "a"'),
        ({"op": "Conv"}, "\n  --> op Conv"),
        ({}, ""),
    ],
)
def test_render_names_only_what_is_known(fields: dict[str, str], place: str) -> None:
    assert Diagnostic("IPU0301", "warning", "text", **fields).render() == f"warning[IPU0301]: text{place}"


def test_json_has_every_field() -> None:
    raised = error("IPU0201", "no", node="n", op="Foo", notes=["a"], data={"count": 2})
    document = raised.diagnostics[0].to_json()
    assert set(document) == set(Diagnostic.__dataclass_fields__)
    assert json.loads(json.dumps(document)) == document
    assert document["data"] == {"count": 2}


def test_unknown_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="IPU0999"):
        error("IPU0999", "text")
    with pytest.raises(ValueError, match="at least one"):
        CompileError(())


@pytest.mark.parametrize(
    ("id", "kind", "code"),
    [("IPU0101", CompileError, 1), ("IPU0402", DoesNotFit, 3), ("IPU0607", NumbersDiffer, 4)],
)
def test_the_id_decides_the_exit_code(id: str, kind: type[CompileError], code: int) -> None:
    raised = error(id, "text")
    assert type(raised) is kind
    assert raised.exit_code == code
    assert str(raised) == f"error[{id}]: text"


def test_errors_cross_process_borders() -> None:
    raised = pickle.loads(pickle.dumps(error("IPU0401", "text", notes=["n"])))
    assert isinstance(raised, DoesNotFit)
    assert raised.diagnostics[0].notes == ("n",)


def test_import_is_cheap() -> None:
    code = "import sys, ipucc.diagnostics; print([m for m in ('onnx', 'numpy', 'onnx_ir') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
