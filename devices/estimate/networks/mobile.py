"""ncnn's benchmark networks for phones: depthwise and grouped convolutions, gates, shuffles.

Architectures: MobileNet (Howard et al. 2017), V2 (Sandler et al. 2018) and V3 (Howard et al. 2019), ShuffleNet (Zhang
et al. 2017) and V2 (Ma et al. 2018), MnasNet (Tan et al. 2018), ProxylessNAS (Cai et al. 2018), EfficientNet (Tan and
Le 2019), RegNet (Radosavovic et al. 2020), BlazeFace (Bazarevsky et al. 2019). Where ncnn's benchmark describes a
variant of a paper's network, the variant is what is built, and the function says so.
"""

from __future__ import annotations

from .builder import Activation, Blob, Builder, Network
from .registry import network

CLASSES = 1000
_PICTURE = (3, 224, 224)


@network("mobilenet")
def mobilenet() -> Network:
    """MobileNet 1.0; 224x224."""
    return _mobilenet(int8=False)


@network("mobilenet_int8")
def mobilenet_int8() -> Network:
    """MobileNet 1.0 with int8 everywhere."""
    return _mobilenet(int8=True)


def _mobilenet(*, int8: bool) -> Network:
    b = Builder(_PICTURE, int8=int8)
    x = b.convolution(b.input, 32, 3, stride=2, pad=1, activation="relu")
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for channels, stride in plan:
        x = b.depthwise(x, stride=stride, activation="relu")
        x = b.convolution(x, channels, 1, activation="relu")
    return b.finish(b.unary("Softmax", b.dense(b.global_average(x), CLASSES, int8=int8)))


def _inverted(
    b: Builder, x: Blob, hidden: int, outputs: int, kernel: int, stride: int, *, caffe: bool = False
) -> Blob:
    """An inverted bottleneck; ``caffe``: which of ncnn's two layers adds the shortcut."""
    y = b.convolution(x, hidden, 1, activation="relu")
    y = b.depthwise(y, kernel, stride=stride, activation="relu")
    y = b.convolution(y, outputs, 1)
    if stride > 1 or x.shape[0] != outputs:
        return y
    return b.eltwise_sum(x, y) if caffe else b.add(x, y)


def _separable(b: Builder, x: Blob, outputs: int) -> Blob:
    return b.convolution(b.depthwise(x, activation="relu"), outputs, 1)


@network("mobilenet_v2")
def mobilenet_v2() -> Network:
    """MobileNetV2 1.0, of the Caffe model that expands by 6 and steps down where its own plan says; 224x224."""
    b = Builder(_PICTURE)
    x = b.convolution(b.input, 32, 3, stride=2, pad=1, activation="relu")
    x = _inverted(b, x, 32, 16, 3, 1, caffe=True)
    plan = [
        (24, 2), (24, 1), (32, 2), (32, 1), (32, 1), (64, 2), (64, 1), (64, 1), (64, 1), (96, 1), (96, 1), (96, 1),
        (160, 2), (160, 1), (160, 1), (320, 1),
    ]
    for outputs, stride in plan:
        x = _inverted(b, x, 6 * x.shape[0], outputs, 3, stride, caffe=True)
    x = b.convolution(x, 1280, 1, activation="relu")
    return b.finish(b.unary("Softmax", b.dense(b.global_average(x), CLASSES)))


@network("mnasnet")
def mnasnet() -> Network:
    """MnasNet-B1, without gates; 224x224."""
    b = Builder(_PICTURE)
    x = b.convolution(b.input, 32, 3, stride=2, pad=1, activation="relu")
    x = _separable(b, x, 16)
    # outputs, kernel, stride, expansion, blocks
    for outputs, kernel, stride, expansion, blocks in (
        (24, 3, 2, 3, 3), (40, 5, 2, 3, 3), (80, 5, 2, 6, 3), (96, 3, 1, 6, 2), (192, 5, 2, 6, 4), (320, 3, 1, 6, 1),
    ):
        for block in range(blocks):
            x = _inverted(b, x, expansion * x.shape[0], outputs, kernel, stride if block == 0 else 1)
    return _searched_head(b, x)


@network("proxylessnasnet")
def proxylessnasnet() -> Network:
    """ProxylessNAS, a wider sibling of the paper's network for phones; 224x224."""
    b = Builder(_PICTURE)
    x = b.convolution(b.input, 32, 3, stride=2, pad=1, activation="relu")
    x = _separable(b, x, 32)
    # hidden channels, outputs, kernel, stride
    for hidden, outputs, kernel, stride in (
        (48, 32, 5, 2), (96, 32, 3, 1),
        (96, 40, 7, 2), (120, 40, 3, 1), (120, 40, 5, 1), (120, 40, 5, 1),
        (240, 80, 7, 2), (240, 80, 5, 1), (240, 80, 5, 1), (240, 80, 5, 1),
        (480, 96, 5, 1), (288, 96, 5, 1), (288, 96, 5, 1), (288, 96, 5, 1),
        (576, 192, 7, 2), (1152, 192, 7, 1), (576, 192, 7, 1), (576, 192, 7, 1),
        (1152, 320, 7, 1),
    ):
        x = _inverted(b, x, hidden, outputs, kernel, stride)
    return _searched_head(b, x)


def _searched_head(b: Builder, x: Blob) -> Network:
    x = b.convolution(x, 1280, 1, activation="relu")
    return b.finish(b.unary("Softmax", b.dense(b.pool(x, 7, 1, average=True, valid=True), CLASSES)))


# kernel, hidden, outputs, gate, hard swish, stride
_V3_LARGE = (
    (3, 64, 24, False, False, 2), (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2), (5, 120, 40, True, False, 1), (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2), (3, 200, 80, False, True, 1), (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1), (3, 480, 112, True, True, 1), (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 1), (5, 672, 160, True, True, 2), (5, 960, 160, True, True, 1),
)


@network("mobilenet_v3")
def mobilenet_v3() -> Network:
    """MobileNetV3 large with a block more than the paper's (672 to 160 channels, at stride 16); 224x224."""
    b = Builder(_PICTURE)
    x = b.convolution(b.input, 16, 3, stride=2, pad=1)
    x = b.multiply(x, b.unary("HardSigmoid", x))
    x = b.add(x, _separable(b, x, 16))
    for kernel, hidden, outputs, gated, swishes, stride in _V3_LARGE:
        x = _v3_block(b, x, kernel, hidden, outputs, gated=gated, swishes=swishes, stride=stride)
    x = b.unary("HardSwish", b.convolution(x, 960, 1))
    x = b.reshape(b.unary("HardSwish", b.global_average(x)), (960,))
    x = b.unary("HardSwish", b.dense(x, 1280))
    return b.finish(b.unary("Softmax", b.dense(x, CLASSES)))


def _v3_block(
    b: Builder, x: Blob, kernel: int, hidden: int, outputs: int, *, gated: bool, swishes: bool, stride: int
) -> Blob:
    activation: Activation = "none" if swishes else "relu"
    y = b.convolution(x, hidden, 1, activation=activation)
    y = b.unary("HardSwish", y) if swishes else y
    # Where a gate follows, the activation comes behind it.
    y = b.depthwise(y, kernel, stride=stride, activation="none" if gated else activation)
    if gated:
        squeezed = b.reshape(b.global_average(y), (hidden,))
        gate = b.dense(b.dense(squeezed, hidden // 4, activation="relu"), hidden)
        y = b.multiply(y, b.reshape(b.unary("HardSigmoid", gate), (hidden, 1, 1)))
        y = y if swishes else b.unary("ReLU", y)
    y = b.unary("HardSwish", y) if swishes else y
    y = b.convolution(y, outputs, 1)
    return b.add(x, y) if stride == 1 and x.shape[0] == outputs else y


@network("efficientnet_b0")
def efficientnet_b0() -> Network:
    """EfficientNet-B0; 224x224."""
    b = Builder(_PICTURE)
    x = b.unary("Swish", b.convolution(b.input, 32, 3, stride=2, pad=1))
    # outputs, kernel, stride, expansion, blocks: table 1 of the paper
    for outputs, kernel, stride, expansion, blocks in (
        (16, 3, 1, 1, 1), (24, 3, 2, 6, 2), (40, 5, 2, 6, 2), (80, 3, 2, 6, 3), (112, 5, 1, 6, 3), (192, 5, 2, 6, 4),
        (320, 3, 1, 6, 1),
    ):
        for block in range(blocks):
            x = _efficient_block(b, x, outputs, kernel, stride if block == 0 else 1, expansion)
    x = b.unary("Swish", b.convolution(x, 1280, 1))
    return b.finish(b.unary("Softmax", b.dense(b.global_average(x), CLASSES)))


def _efficient_block(b: Builder, x: Blob, outputs: int, kernel: int, stride: int, expansion: int) -> Blob:
    hidden = expansion * x.shape[0]
    y = x if expansion == 1 else b.unary("Swish", b.convolution(x, hidden, 1))
    y = b.unary("Swish", b.depthwise(y, kernel, stride=stride))
    squeezed = b.unary("Swish", b.dense(b.global_average(y), x.shape[0] // 4))
    y = b.multiply(y, b.convolution(squeezed, hidden, 1, activation="sigmoid"))
    y = b.convolution(y, outputs, 1)
    return b.add(x, y) if stride == 1 and x.shape[0] == outputs else y


@network("regnety_400m")
def regnety_400m() -> Network:
    """RegNetY-400MF: groups of 8 channels, gates of a quarter of a block's input; 224x224."""
    b = Builder(_PICTURE)
    x = b.convolution(b.input, 32, 3, stride=2, pad=1, activation="relu")
    for channels, blocks in ((48, 1), (104, 3), (208, 6), (440, 6)):
        for block in range(blocks):
            stride = 2 if block == 0 else 1
            shortcut = b.convolution(x, channels, 1, stride=stride) if block == 0 else x
            y = b.convolution(x, channels, 1, activation="relu")
            y = b.convolution(y, channels, 3, stride=stride, pad=1, groups=channels // 8, activation="relu")
            gate = b.dense(b.global_average(y), x.shape[0] // 4, activation="relu")
            y = b.multiply(y, b.dense(gate, channels, activation="sigmoid"))
            x = b.unary("ReLU", b.add(shortcut, b.convolution(y, channels, 1)))
    return b.finish(b.unary("Softmax", b.dense(b.global_average(x), CLASSES)))


@network("shufflenet")
def shufflenet() -> Network:
    """ShuffleNet 1.0x with three groups; 224x224."""
    b = Builder(_PICTURE)
    x = b.pool(b.convolution(b.input, 24, 3, stride=2, pad=1, activation="relu"), 3, 2)
    for channels, blocks in ((240, 4), (480, 8), (960, 4)):
        for block in range(blocks):
            x = _shuffle_unit(b, x, channels, first=block == 0)
    return b.finish(b.unary("Softmax", b.dense(b.global_average(x), CLASSES)))


def _shuffle_unit(b: Builder, x: Blob, channels: int, *, first: bool) -> Blob:
    groups = 3
    own = channels - x.shape[0] if first else channels
    # The very first 1x1 convolution sees 24 channels and has no groups (section 3.2 of the paper).
    if x.shape[0] == 24:
        y = b.convolution(x, own // 4, 1, activation="relu")
    else:
        y = b.convolution(x, channels // 4, 1, groups=groups, activation="relu")
        y = b.shuffle(y, groups)
    y = b.depthwise(y, stride=2 if first else 1)
    y = b.convolution(y, own, 1, groups=groups)
    if not first:
        return b.unary("ReLU", b.eltwise_sum(x, y))
    return b.unary("ReLU", b.concatenate([b.pool(x, 3, 2, average=True), y]))


@network("shufflenet_v2")
def shufflenet_v2() -> Network:
    """ShuffleNetV2 1.0x; 224x224."""
    b = Builder(_PICTURE)
    x = b.pool(b.convolution(b.input, 24, 3, stride=2, pad=1, activation="relu"), 3, 2)
    for channels, blocks in ((116, 4), (232, 8), (464, 4)):
        half = channels // 2
        for block in range(blocks):
            if block == 0:
                shortcut = b.convolution(b.depthwise(x, stride=2), half, 1, activation="relu")
                y = x
            else:
                shortcut, y = b.halves(x)
            y = b.convolution(y, half, 1, activation="relu")
            y = b.convolution(b.depthwise(y, stride=2 if block == 0 else 1), half, 1, activation="relu")
            x = b.shuffle(b.concatenate([shortcut, y]), 2)
    x = b.convolution(x, 1024, 1, activation="relu")
    return b.finish(b.unary("Softmax", b.dense(b.global_average(x), CLASSES)))


@network("blazeface")
def blazeface() -> Network:
    """BlazeFace's backbone for the front camera, of 3x3 blocks; 128x128, gives (96, 8, 8)."""
    b = Builder((3, 128, 128))
    x = b.convolution(b.pad_planes(b.input, 1, 2, 1, 2), 24, 5, stride=2)
    x = b.unary("ReLU", x)
    for channels, stride in (
        (24, 1), (28, 1), (32, 2), (36, 1), (42, 1), (48, 2), (56, 1), (64, 1), (72, 1), (80, 1), (88, 1), (96, 2),
        (96, 1), (96, 1), (96, 1), (96, 1),
    ):
        x = _blaze_block(b, x, channels, stride)
    return b.finish(x)


def _blaze_block(b: Builder, x: Blob, channels: int, stride: int) -> Blob:
    if stride == 1:
        shortcut, y = x, b.depthwise(x)
    else:
        shortcut = b.pool(x, 2, 2, valid=True)
        y = b.depthwise(b.pad_planes(x, 0, 2, 0, 2), stride=2, pad=0)
    if channels > x.shape[0]:
        shortcut = b.pad_channels(shortcut, channels - x.shape[0])
    return b.unary("ReLU", b.add(b.convolution(y, channels, 1), shortcut))
