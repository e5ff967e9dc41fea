"""The cases: each operation alone, then what networks are composed of.

Maps are not square, and channel counts straddle the widths of vector registers, where an operation
allows it.
"""

from network import Network

TRAIN, EVAL = True, False


def conv(ins, outs, height, width, kernel, **settings):
    network = Network(ins, height, width)
    network.conv("conv", 0, ins, outs, kernel, **settings)
    return network


def batch_norm(channels, height, width, **settings):
    network = Network(channels, height, width)
    network.batch_norm("bn", 0, channels, **settings)
    return network


def single(op, channels, height, width):
    network = Network(channels, height, width)
    network.node(op.lower(), op, 0)
    return network


def max_pool(channels, height, width, *settings):
    network = Network(channels, height, width)
    network.max_pool("maxpool", 0, *settings)
    return network


def avg_pool(channels, height, width, output_size):
    network = Network(channels, height, width)
    network.avg_pool("avgpool", 0, output_size)
    return network


def linear(ins, outs, bias=True):
    network = Network(ins)
    network.linear("fc", 0, ins, outs, bias)
    return network


def cosine_linear(ins, outs):
    network = Network(ins)
    network.cosine("fc", 0, ins, outs)
    return network


def add(identity):
    network = Network(4, 5, 4)
    a = network.conv("a", 0, 4, 4, 3, padding=1)
    b = 0 if identity else network.conv("b", 0, 4, 4, 1)
    network.node("add", "Add", a, b)
    return network


def add_to_itself():
    network = Network(3, 5, 4)
    network.node("add", "Add", 0, 0)
    return network


def concat():
    network = Network(4, 5, 4)
    a = network.conv("a", 0, 4, 3, 1)
    b = network.conv("b", 0, 4, 5, 3, padding=1)
    network.node("concat", "Concat", a, 0, b)
    return network


def flatten_linear():
    network = Network(3, 4, 5)
    network.linear("fc", network.node("flatten", "Flatten", 0), 60, 7)
    return network


def conv_bn_relu():
    network = Network(3, 6, 5)
    x = network.conv("conv", 0, 3, 6, 3, padding=1)
    x = network.batch_norm("bn", x, 6)
    network.node("relu", "ReLU", x)
    return network


def basic_block():
    """torchvision's BasicBlock(3, 5, stride=2) with its downsampling shortcut."""
    network = Network(3, 9, 8)
    x = network.conv("conv1", 0, 3, 5, 3, stride=2, padding=1)
    x = network.batch_norm("bn1", x, 5)
    x = network.node("relu1", "ReLU", x)
    x = network.conv("conv2", x, 5, 5, 3, padding=1)
    x = network.batch_norm("bn2", x, 5)
    shortcut = network.conv("downsample.0", 0, 3, 5, 1, stride=2)
    shortcut = network.batch_norm("downsample.1", shortcut, 5)
    x = network.node("add", "Add", x, shortcut)
    network.node("relu", "ReLU", x)
    return network


def fire():
    """torchvision's Fire(5, 3, 4, 5)."""
    network = Network(5, 5, 4)
    x = network.conv("squeeze", 0, 5, 3, 1, bias=True)
    x = network.node("squeeze_activation", "ReLU", x)
    narrow = network.conv("expand1x1", x, 3, 4, 1, bias=True)
    narrow = network.node("expand1x1_activation", "ReLU", narrow)
    wide = network.conv("expand3x3", x, 3, 5, 3, padding=1, bias=True)
    wide = network.node("expand3x3_activation", "ReLU", wide)
    network.node("concat", "Concat", narrow, wide)
    return network


def inverted_residual():
    """torchvision's InvertedResidual(3, 3, stride=1, expand_ratio=4)."""
    network = Network(3, 5, 6)
    x = network.conv("conv.0.0", 0, 3, 12, 1)
    x = network.batch_norm("conv.0.1", x, 12)
    x = network.node("conv.0.2", "ReLU6", x)
    x = network.conv("conv.1.0", x, 12, 12, 3, padding=1, groups=12)
    x = network.batch_norm("conv.1.1", x, 12)
    x = network.node("conv.1.2", "ReLU6", x)
    x = network.conv("conv.2", x, 12, 3, 1)
    x = network.batch_norm("conv.3", x, 3)
    network.node("add", "Add", 0, x)
    return network


def pooled_head():
    network = Network(3, 7, 8)
    x = network.conv("conv", 0, 3, 5, 3, padding=1, bias=True)
    x = network.max_pool("maxpool", x, 3, 2, 1)
    x = network.avg_pool("avgpool", x, 1)
    x = network.node("flatten", "Flatten", x)
    network.linear("fc", x, 5, 4)
    return network


def two_ways(op, **settings):
    """An operation without parameters on a map that learns, whose other reader adds to the map's gradient."""
    network = Network(5, 5, 4)
    x = network.conv("conv", 0, 5, 6, 1, bias=True)
    y = network.node("op", op, x, **settings)
    z = network.conv("other", x, 6, 4, 1)
    network.node("concat", "Concat", y, z)
    return network


def squeeze_excitation():
    """The middle of MobileNetV3's block: depthwise, hard swish, squeeze and excitation, projection."""
    network = Network(9, 5, 4)
    x = network.conv("block.1.0", 0, 9, 9, 3, padding=1, groups=9)
    x = network.batch_norm("block.1.1", x, 9, eps=1e-3, momentum=0.01)
    x = network.node("block.1.2", "Hardswish", x)
    y = network.avg_pool("block.2.avgpool", x, 1)
    y = network.conv("block.2.fc1", y, 9, 4, 1, bias=True)
    y = network.node("block.2.activation", "ReLU", y)
    y = network.conv("block.2.fc2", y, 4, 9, 1, bias=True)
    y = network.node("block.2.scale_activation", "Hardsigmoid", y)
    x = network.node("block.2.mul", "Mul", x, y)
    x = network.conv("block.3.0", x, 9, 5, 1)
    network.batch_norm("block.3.1", x, 5, eps=1e-3, momentum=0.01)
    return network


def convnext_block():
    """torchvision's CNBlock(6) without its permutations."""
    network = Network(6, 8, 9)
    x = network.conv("block.0", 0, 6, 6, 7, padding=3, groups=6, bias=True)
    x = network.layer_norm("block.2", x, 6)
    x = network.linear("block.3", x, 6, 24)
    x = network.node("block.4", "GELU", x)
    x = network.linear("block.5", x, 24, 6)
    x = network.node("scaled", "LayerScale", x, channels=6)
    network.node("add", "Add", x, 0)
    return network


def shuffle_block():
    """The two halves of a block of ShuffleNetV2."""
    network = Network(8, 5, 4)
    x = network.node("half1", "Narrow", 0, start=0, length=4)
    y = network.node("half2", "Narrow", 0, start=4, length=4)
    y = network.conv("branch2.0", y, 4, 4, 1)
    x = network.node("concat", "Concat", x, y)
    network.node("shuffle", "ChannelShuffle", x, groups=2)
    return network


def scaled_residual():
    """The end of a block of an Inception-ResNet."""
    network = Network(5, 5, 4)
    x = network.conv("conv2d", 0, 5, 5, 1, bias=True)
    x = network.node("scaled", "Scale", x, factor=0.17)
    x = network.node("add", "Add", x, 0)
    network.node("relu", "ReLU", x)
    return network


def gate():
    network = Network(5, 5, 4)
    x = network.conv("conv", 0, 5, 17, 1)
    y = network.avg_pool("avgpool", x, 1)
    y = network.node("sigmoid", "Sigmoid", y)
    network.node("mul", "Mul", x, y)
    return network


def layer_norm(channels, height, width):
    network = Network(channels, height, width)
    network.layer_norm("norm", 0, channels)
    return network


def window_avg_pool(channels, height, width, *settings):
    network = Network(channels, height, width)
    network.avg_pool2d("pool", 0, *settings)
    return network


# Name -> (network, batch, training). Without a batch norm the mode means nothing.
CASES = {
    "conv2d_3x3": (conv(4, 6, 5, 4, 3, padding=1), 2, EVAL),
    "conv2d_3x3_3to5": (conv(3, 5, 5, 4, 3, padding=1), 3, EVAL),
    "conv2d_3x3_7to9": (conv(7, 9, 5, 4, 3, padding=1), 2, EVAL),
    "conv2d_3x3_wide": (conv(9, 17, 5, 5, 3, padding=1), 2, EVAL),
    "conv2d_3x3_bias": (conv(2, 3, 5, 4, 3, padding=1, bias=True), 2, EVAL),
    "conv2d_3x3_unpadded": (conv(3, 4, 7, 6, 3, stride=2, bias=True), 2, EVAL),
    "conv2d_3x3_overpadded": (conv(2, 3, 4, 5, 3, padding=2), 2, EVAL),
    "conv2d_3x3_stride2": (conv(3, 4, 8, 7, 3, stride=2, padding=1), 2, EVAL),
    "conv2d_3x3_stride2_wide": (conv(3, 17, 7, 6, 3, stride=2, padding=1), 2, EVAL),
    "conv2d_3x3_dilated": (conv(2, 3, 6, 7, 3, padding=2, dilation=2), 2, EVAL),
    "conv2d_3x3_grouped": (conv(6, 4, 5, 4, 3, padding=1, groups=2), 2, EVAL),
    "conv2d_3x3_stride_2_1": (conv(2, 3, 7, 6, 3, stride=(2, 1), padding=1), 2, EVAL),
    "conv2d_7x7_stride2": (conv(3, 4, 8, 7, 7, stride=2, padding=3), 2, EVAL),
    "conv2d_1x1": (conv(6, 5, 5, 4, 1), 2, EVAL),
    "conv2d_1x1_wide": (conv(17, 33, 2, 2, 1, bias=True), 2, EVAL),
    "conv2d_1x1_stride2": (conv(5, 4, 6, 5, 1, stride=2), 2, EVAL),
    "conv2d_1x7": (conv(3, 2, 5, 8, (1, 7), padding=(0, 3)), 2, EVAL),
    "conv2d_7x1": (conv(3, 2, 8, 5, (7, 1), padding=(3, 0)), 2, EVAL),
    "conv2d_depthwise": (conv(9, 9, 5, 4, 3, padding=1, groups=9), 2, EVAL),
    "conv2d_depthwise_stride2": (conv(17, 17, 5, 4, 3, stride=2, padding=1, groups=17), 2, EVAL),
    "conv2d_depthwise_multiplied": (conv(3, 6, 6, 5, 3, padding=1, groups=3), 2, EVAL),
    "batch_norm_train": (batch_norm(5, 5, 4), 3, TRAIN),
    "batch_norm_train_wide": (batch_norm(17, 2, 3), 2, TRAIN),
    "batch_norm_train_eps": (batch_norm(3, 5, 4, eps=1e-3, momentum=0.01), 2, TRAIN),
    "batch_norm_eval": (batch_norm(5, 5, 4), 3, EVAL),
    "relu": (single("ReLU", 5, 4, 5), 2, EVAL),
    "relu6": (single("ReLU6", 5, 4, 5), 2, EVAL),
    "max_pool_3_2_1": (max_pool(3, 7, 8, 3, 2, 1), 2, EVAL),
    "max_pool_3_2_0_ceil": (max_pool(3, 8, 7, 3, 2, 0, True), 2, EVAL),
    "max_pool_2_2": (max_pool(3, 6, 7, 2, 2), 2, EVAL),
    "adaptive_avg_pool_1": (avg_pool(3, 7, 6, 1), 2, EVAL),
    "adaptive_avg_pool_7_from_7": (avg_pool(2, 7, 7, 7), 2, EVAL),
    "adaptive_avg_pool_7_from_10": (avg_pool(2, 10, 10, 7), 2, EVAL),
    "adaptive_avg_pool_7_from_5": (avg_pool(2, 5, 5, 7), 2, EVAL),
    "adaptive_avg_pool_7_from_14x5": (avg_pool(2, 14, 5, 7), 2, EVAL),
    "linear": (linear(17, 7), 3, EVAL),
    "linear_without_bias": (linear(8, 5, bias=False), 2, EVAL),
    "cosine_linear": (cosine_linear(17, 7), 3, EVAL),
    "flatten_linear": (flatten_linear(), 3, EVAL),
    "add": (add(identity=False), 2, EVAL),
    "add_identity": (add(identity=True), 2, EVAL),
    "add_to_itself": (add_to_itself(), 2, EVAL),
    "concat": (concat(), 2, EVAL),
    "conv_bn_relu_train": (conv_bn_relu(), 2, TRAIN),
    "conv_bn_relu_eval": (conv_bn_relu(), 2, EVAL),
    "basic_block_train": (basic_block(), 2, TRAIN),
    "basic_block_eval": (basic_block(), 2, EVAL),
    "fire": (fire(), 2, EVAL),
    "inverted_residual_train": (inverted_residual(), 2, TRAIN),
    "inverted_residual_eval": (inverted_residual(), 2, EVAL),
    "hardswish": (two_ways("Hardswish"), 2, EVAL),
    "hardsigmoid": (two_ways("Hardsigmoid"), 2, EVAL),
    "silu": (two_ways("SiLU"), 2, EVAL),
    "sigmoid": (two_ways("Sigmoid"), 2, EVAL),
    "gelu": (two_ways("GELU"), 2, EVAL),
    "narrow": (two_ways("Narrow", start=2, length=3), 2, EVAL),
    "channel_shuffle": (two_ways("ChannelShuffle", groups=3), 2, EVAL),
    "scale": (two_ways("Scale", factor=-0.3), 2, EVAL),
    "avg_pool_2_2": (window_avg_pool(3, 7, 6, 2, 2), 2, EVAL),
    "avg_pool_3_1_1": (window_avg_pool(3, 5, 4, 3, 1, 1), 2, EVAL),
    "layer_norm": (layer_norm(19, 3, 4), 2, EVAL),
    "gate": (gate(), 3, EVAL),
    "squeeze_excitation_train": (squeeze_excitation(), 2, TRAIN),
    "squeeze_excitation_eval": (squeeze_excitation(), 2, EVAL),
    "convnext_block": (convnext_block(), 2, EVAL),
    "shuffle_block": (shuffle_block(), 2, EVAL),
    "scaled_residual": (scaled_residual(), 2, EVAL),
    "conv2d_groups_of_4": (conv(20, 20, 5, 6, 3, padding=1, groups=5), 2, EVAL),
    "conv2d_groups_of_8_stride2": (conv(24, 24, 6, 5, 3, stride=2, padding=1, groups=3), 2, EVAL),
    "pooled_head": (pooled_head(), 2, EVAL),
}

# Losses, name -> (label smoothing, with class weights, what the targets are): the mean as torch defines it.
LOSSES = {
    "cross_entropy": (0.0, False),
    "cross_entropy_smoothed": (0.1, False),
    "cross_entropy_weighted": (0.0, True),
    "cross_entropy_smoothed_weighted": (0.1, True),
    "cross_entropy_probabilities": (0.0, False, "probabilities"),
    "cross_entropy_probabilities_smoothed": (0.1, False, "probabilities"),
    "cross_entropy_probabilities_weighted": (0.0, True, "probabilities"),
    "cross_entropy_probabilities_smoothed_weighted": (0.1, True, "probabilities"),
    "binary_cross_entropy": (0.0, False, "answers"),
    "binary_cross_entropy_smoothed_weighted": (0.1, True, "answers"),
    "squared_error": (0.0, False, "values"),
}
