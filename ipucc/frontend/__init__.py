"""ONNX in: load, convert the opset, inline functions, bind dimensions, fold, name every unsupported node."""
