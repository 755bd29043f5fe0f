"""Write full-size networks with random weights as ONNX.

    python samples/make_models.py resnet50 --batch 1 -o resnet50.onnx
    python samples/make_models.py bert-base --seq 128 --batch 1 -o bert.onnx
    python samples/make_models.py bert-large --seq 384 --external -o large.onnx
    python samples/make_models.py gpt2 --seq 64 -o gpt2.onnx
    python samples/make_models.py llama-step --context 512 -o step.onnx

Weights are float32 and keep the variance of what passes through them, so that values stay of the order of
one in every layer and half precision does not overflow. The same seed gives the same file. Weights lie in a
second file beside the model (NAME.onnx.data) with --external, and always from 2 GB on, where ONNX has no
other way. `make_models.py NETWORK --help` shows the sizes that a network can be given; those it has without
are the published ones. Needs numpy and onnx.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import onnx
from networks.branching import branching
from networks.builder import save
from networks.convolutional import efficientnet_b0, mobilenet_v2, resnet50
from networks.llama import llama_step
from networks.routing import detector, experts, graph_attention
from networks.sequences import generate, mamba, t5_decoder, whisper_encoder
from networks.transformers import bert, gpt2, vit
from networks.unet import unet

Sizes = dict[str, tuple[int, str]]

LAYERS = "layers of the network"
SEQ = "tokens per sequence"
SIZE = "height and width of the images"
HIDDEN = "hidden size, a multiple of 64; heads have 64"
NETWORKS: dict[str, tuple[str, Sizes]] = {
    "resnet50": ("ResNet-50, images of 224x224", {}),
    "bert-base": ("BERT-base", {"layers": (12, LAYERS), "seq": (128, SEQ), "hidden": (768, HIDDEN)}),
    "bert-large": ("BERT-large", {"layers": (24, LAYERS), "seq": (128, SEQ), "hidden": (1024, HIDDEN)}),
    "gpt2": ("GPT-2 of 124M parameters with its head", {"layers": (12, LAYERS), "seq": (64, SEQ)}),
    "vit-base": ("ViT-Base, patches of 16x16", {"layers": (12, LAYERS), "size": (224, SIZE)}),
    "mobilenet-v2": ("MobileNetV2, width 1", {"size": (224, SIZE)}),
    "efficientnet-b0": ("EfficientNet-B0", {"size": (224, SIZE)}),
    "unet": (
        "U-Net with four levels, padded convolutions and batch normalisation",
        {"size": (256, SIZE), "width": (64, "channels of the first level"), "classes": (2, "classes of a pixel")},
    ),
    "llama-step": (
        "one token through a decoder like Llama's: RMS norm, rotary, SwiGLU, four query heads to a key",
        {
            "layers": (12, LAYERS), "hidden": (1024, "hidden size, a multiple of 256; heads have 64"),
            "context": (512, "tokens in the cache"), "vocabulary": (32000, "tokens that there are"),
        },
    ),
    "whisper-encoder": (
        "the encoder of Whisper tiny",
        {"layers": (4, LAYERS), "hidden": (384, HIDDEN), "frames": (3000, "frames of sound")},
    ),
    "t5-decoder": (
        "the decoder of T5-small",
        {"layers": (6, LAYERS), "seq": (64, SEQ), "source": (64, "tokens that the encoder has read")},
    ),
    "mamba": (
        "Mamba of 130M parameters, its selective scan as a Scan",
        {"layers": (24, LAYERS), "hidden": (768, "hidden size"), "seq": (64, SEQ)},
    ),
    "detector": ("a detector of one scale, with top k and non-maximum suppression", {"size": (256, SIZE)}),
    "graph-attention": (
        "two layers of graph attention", {"nodes": (2708, "nodes"), "edges": (10556, "edges, from and to")},
    ),
    "experts": (
        "a mixture of experts, two of them for a token",
        {"seq": (128, "tokens"), "hidden": (512, "hidden size"), "experts": (8, "experts")},
    ),
    "generate": (
        "a decoder of GPT-2's kind that writes tokens in a Loop, with a cache",
        {"layers": (2, LAYERS), "hidden": (256, HIDDEN), "tokens": (32, "tokens that are written")},
    ),
    "branching": (
        "a network drawn at random: branches of convolutions, then of products, hardly two ops alike",
        {"ops": (1000, "ops at least"), "size": (64, SIZE)},
    ),
}  # fmt: skip
"""Per network what it is, and the sizes that can be given: default and help."""


def build(o: argparse.Namespace) -> onnx.ModelProto:
    """The network that the options ask for."""
    makers: dict[str, Callable[[], onnx.ModelProto]] = {
        "resnet50": lambda: resnet50(o.batch, o.seed),
        "bert-base": lambda: bert("bert-base", o.layers, o.hidden, o.hidden // 64, o.batch, o.seq, o.pooler, o.seed),
        "bert-large": lambda: bert("bert-large", o.layers, o.hidden, o.hidden // 64, o.batch, o.seq, o.pooler, o.seed),
        "gpt2": lambda: gpt2(o.layers, 768, 12, 50257, o.batch, o.seq, o.head, o.seed),
        "vit-base": lambda: vit(o.layers, 768, 12, o.batch, o.size, 16, 1000, o.seed),
        "mobilenet-v2": lambda: mobilenet_v2(o.batch, o.size, 1000, o.seed),
        "efficientnet-b0": lambda: efficientnet_b0(o.batch, o.size, 1000, o.seed),
        "unet": lambda: unet(o.batch, o.size, o.width, 4, o.classes, o.seed),
        "llama-step": lambda: llama_step(
            o.layers, o.hidden, o.hidden // 64, o.hidden // 256, o.hidden * 11 // 4, o.vocabulary, o.batch, o.context,
            o.seed,
        ),
        "whisper-encoder": lambda: whisper_encoder(
            o.layers, o.hidden, o.hidden // 64, 80, o.frames, o.batch, o.seed
        ),
        "t5-decoder": lambda: t5_decoder(o.layers, 512, 8, 2048, 32128, o.seq, o.source, o.batch, o.seed),
        "mamba": lambda: mamba(o.layers, o.hidden, 16, 50280, o.seq, o.batch, o.seed),
        "detector": lambda: detector(o.size, 32, 80, 100, o.batch, o.seed),
        "graph-attention": lambda: graph_attention(o.nodes, o.edges, 1433, 8, 8, 7, o.seed),
        "experts": lambda: experts(o.seq, o.hidden, 4 * o.hidden, o.experts, o.seed),
        "generate": lambda: generate(o.layers, o.hidden, o.hidden // 64, 1024, o.tokens, None, o.seed),
        "branching": lambda: branching(o.ops, o.batch, o.size, o.seed),
    }  # fmt: skip
    return makers[o.network]()


def arguments() -> argparse.ArgumentParser:
    """The command line: one sub-command per network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="network", required=True, metavar="NETWORK")
    show = argparse.ArgumentDefaultsHelpFormatter
    for name, (description, sizes) in NETWORKS.items():
        command = commands.add_parser(name, help=description, description=description, formatter_class=show)
        command.add_argument("-o", "--output", type=Path, required=True, help="the file to write")
        command.add_argument("--batch", type=int, default=1, help="samples at once")
        for size, (default, meaning) in sizes.items():
            command.add_argument(f"--{size}", type=int, default=default, help=meaning)
        if name.startswith("bert"):
            command.add_argument("--pooler", action="store_true", help="add the pooled output")
        if name == "gpt2":
            choices = ["tied", "untied", "none"]
            command.add_argument("--head", choices=choices, default="tied", help="what the logits are a product with")
        command.add_argument("--external", action="store_true", help="weights in a second file, OUTPUT.data")
        command.add_argument("--seed", type=int, default=0, help="of the weights")
    return parser


def main() -> None:
    parser = arguments()
    o = parser.parse_args()
    if small := [size for size in ("batch", *NETWORKS[o.network][1]) if getattr(o, size) < 1]:
        parser.error(f"--{small[0]} is at least 1")
    heads = {"llama-step": 256}.get(o.network, 64 if NETWORKS[o.network][1].get("hidden", ("", ""))[1] == HIDDEN else 0)
    if heads and o.hidden % heads:
        parser.error(f"--hidden is a multiple of {heads}")
    size = save(build(o), o.output, o.external)
    onnx.checker.check_model(o.output)
    print(f"wrote {o.output}: {size / 1e6:.1f} MB of weights")


if __name__ == "__main__":
    main()
