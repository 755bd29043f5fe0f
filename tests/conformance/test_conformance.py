"""ONNX's own backend tests through compiled programs: a few of each family; all of them with `make conformance`."""

import conformance
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

SAMPLE = """
    test_cast_FLOAT_to_FLOAT8E4M3FN test_cast_no_saturate_FLOAT_to_FLOAT8E5M2 test_cast_FLOAT_to_INT4
    test_cast_e8m0_FLOAT_to_FLOAT8E8M0 test_bitcast_float32_to_int32 test_bitshift_right_int8_shift_ge_width
    test_quantizelinear_axis test_dequantizelinear_blocked test_matmulinteger test_convinteger_with_padding
    test_qlinearconv test_lstm_bidirectional test_gru_seq_length test_scan9_sum test_dft test_gridsample_bicubic
    test_einsum_batch_diagonal
    test_scatter_elements_with_reduction_max test_scatternd_add test_tensorscatter_circular test_top_k_smallest
    test_shape test_reduce_max_empty_set test_layer_normalization_2d_axis0 test_constant_pad test_dropout_default_mask
    test_linear_attention_delta test_sce_mean_weight_ii_log_prob test_reversesequence_time
""".split()  # noqa: SIM905


# The stage of CI behind the tests runs all cases.
@pytest.mark.slow
def test_cases_of_every_family_pass() -> None:
    outcomes = conformance.run_all([("node", name) for name in SAMPLE], processes=1)
    assert [o for o in outcomes if o.status != "pass"] == []


def test_the_sample_is_frozen() -> None:
    assert set(SAMPLE) <= conformance.frozen()


@pytest.mark.slow
def test_no_case_is_lost_wrong_or_crashing() -> None:
    jobs = [(kind, name) for kind in conformance.KINDS for name in conformance.names(kind)]
    assert conformance.problems(conformance.run_all(jobs)) == []


def test_differences_of_rounding_are_no_wrong_numbers() -> None:
    wanted = np.array([1.0, 100.0], np.float32)
    assert conformance.rounded_alike(wanted, wanted + np.float32(1e-5))
    assert not conformance.rounded_alike(wanted, wanted + np.float32(1e-3))
    assert conformance.difference([wanted], [wanted + np.float32(1)], 1e-3, 1e-7)


def test_a_refusal_says_why() -> None:
    node = helper.make_node("Bernoulli", ["x"], ["y"])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    model = helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=[helper.make_opsetid("", 22)])
    onnx.checker.check_model(model)
    data = [([np.ones(2, np.float32)], [np.ones(2, np.float32)])]
    case = conformance.Case("bernoulli", "node", "Bernoulli", model, data, 1e-3, 1e-7)
    found = conformance.run_case(case, "gc200")
    assert found.status == "refused"
    assert found.reason.startswith("IPU0201 Bernoulli")
