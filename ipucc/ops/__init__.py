"""ONNX nodes as iteration spaces: one file per family."""
