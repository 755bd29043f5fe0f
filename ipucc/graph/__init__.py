"""Types and helpers over onnx_ir: the schemas of domain `ipucc`, printing, verifying."""
