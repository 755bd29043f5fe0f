"""Ops that the import leaves whole although ONNX defines them as functions of smaller ones."""

# Every op that ipucc means to lower by itself, function or not. Attention is missing on purpose: it is taken apart
# by rules of its own (frontend/attention.py), since most of it is matmul, softmax and elementwise work.
NATIVE_OPS: frozenset[str] = frozenset(
    """
    Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast CastLike
    Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumProd CumSum DepthToSpace Div Dropout
    Einsum Elu Equal Erf Exp Expand Flatten Floor Gather GatherElements Gelu Gemm GlobalAveragePool GlobalLpPool
    GlobalMaxPool Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish Hardmax Identity
    InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization
    LpPool MatMul Max MaxPool Mean Min Mish Mod Mul Neg Not Or PRelu Pad Pow RMSNormalization Range Reciprocal ReduceL1
    ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu
    Reshape Resize RotaryEmbedding Round Selu Shape Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign
    SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan Tanh ThresholdedRelu Tile Transpose Trilu Unsqueeze Where Xor
    """.split()  # noqa: SIM905
)

# Functions whose bodies would not help: random numbers, sequences, and what is computed while compiling.
NEVER_INLINED: frozenset[str] = frozenset(["Attention", "Bernoulli", "Range", "SequenceMap"])
