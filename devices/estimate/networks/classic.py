"""ncnn's benchmark networks of full convolutions, float and int8, for 1000 classes.

Architectures: AlexNet (Krizhevsky et al. 2012), VGG (Simonyan and Zisserman 2014), GoogLeNet (Szegedy et al. 2014),
ResNet (He et al. 2015), SqueezeNet 1.1 (Iandola et al. 2016). What the papers leave open (paddings, where a stride
is, what stays float in an int8 network) is as in the descriptions of ncnn's benchmark.
"""

from __future__ import annotations

from .builder import Blob, Builder, Network
from .registry import network

CLASSES = 1000


@network("alexnet")
def alexnet() -> Network:
    """Two groups in the second, fourth and fifth convolution, as on the two GPUs of the paper; 227x227."""
    b = Builder((3, 227, 227))
    x = b.convolution(b.input, 96, 11, stride=4, activation="relu")
    x = b.pool(b.local_response(x), 3, 2)
    x = b.convolution(x, 256, 5, pad=2, groups=2, activation="relu")
    x = b.pool(b.local_response(x), 3, 2)
    x = b.convolution(x, 384, 3, pad=1, activation="relu")
    x = b.convolution(x, 384, 3, pad=1, groups=2, activation="relu")
    x = b.convolution(x, 256, 3, pad=1, groups=2, activation="relu")
    return _perceptron(b, b.pool(x, 3, 2))


@network("vgg16")
def vgg16() -> Network:
    """Configuration D of the paper; 224x224."""
    return _vgg16(int8=False)


@network("vgg16_int8")
def vgg16_int8() -> Network:
    """VGG-16 with int8 everywhere, its fully connected layers too."""
    return _vgg16(int8=True)


def _vgg16(*, int8: bool) -> Network:
    b = Builder((3, 224, 224), int8=int8)
    x = b.input
    for channels, repeats in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(repeats):
            x = b.convolution(x, channels, 3, pad=1, activation="relu")
        x = b.pool(x, 2, 2)
    return _perceptron(b, x, int8=int8)


def _perceptron(b: Builder, x: Blob, *, int8: bool = False) -> Network:
    x = b.dense(x, 4096, activation="relu", int8=int8)
    x = b.dense(x, 4096, activation="relu", int8=int8)
    return b.finish(b.unary("Softmax", b.dense(x, CLASSES, int8=int8)))


@network("squeezenet")
def squeezenet() -> Network:
    """SqueezeNet 1.1; 227x227."""
    return _squeezenet(int8=False)


@network("squeezenet_int8")
def squeezenet_int8() -> Network:
    """SqueezeNet 1.1 with int8 convolutions."""
    return _squeezenet(int8=True)


def _squeezenet(*, int8: bool) -> Network:
    b = Builder((3, 227, 227), int8=int8)
    x = b.pool(b.convolution(b.input, 64, 3, stride=2, activation="relu"), 3, 2)
    fires = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
    for index, (squeezed, expanded) in enumerate(fires):
        squeeze = b.convolution(x, squeezed, 1, activation="relu")
        points = b.convolution(squeeze, expanded, 1, activation="relu")
        windows = b.convolution(squeeze, expanded, 3, pad=1, activation="relu")
        x = b.concatenate([points, windows])
        if index in (1, 3):
            x = b.pool(x, 3, 2)
    # The padding is in the description that was timed; without it this layer would cost a quarter less.
    x = b.convolution(x, CLASSES, 1, pad=1, activation="relu")
    return b.finish(b.unary("Softmax", b.global_average(x)))


@network("googlenet")
def googlenet() -> Network:
    """GoogLeNet without its two auxiliary classifiers; 224x224."""
    return _googlenet(int8=False)


@network("googlenet_int8")
def googlenet_int8() -> Network:
    """GoogLeNet with int8 convolutions."""
    return _googlenet(int8=True)


# 1x1; 3x3 reduced and full; 5x5 reduced and full; behind the pooling: table 1 of the paper.
_INCEPTIONS = (
    (64, 96, 128, 16, 32, 32),          # 3a
    (128, 128, 192, 32, 96, 64),
    (192, 96, 208, 16, 48, 64),         # 4a
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    (256, 160, 320, 32, 128, 128),      # 5a
    (384, 192, 384, 48, 128, 128),
)
_POOLED_AFTER = (1, 6)


def _googlenet(*, int8: bool) -> Network:
    b = Builder((3, 224, 224), int8=int8)
    x = b.convolution(b.input, 64, 7, stride=2, pad=3, activation="relu")
    x = b.local_response(b.pool(x, 3, 2))
    x = b.convolution(x, 64, 1, activation="relu")
    x = b.convolution(x, 192, 3, pad=1, activation="relu")
    x = b.pool(b.local_response(x), 3, 2)
    for index, (points, reduced3, full3, reduced5, full5, pooled) in enumerate(_INCEPTIONS):
        branches = [
            b.convolution(x, points, 1, activation="relu"),
            b.convolution(b.convolution(x, reduced3, 1, activation="relu"), full3, 3, pad=1, activation="relu"),
            b.convolution(b.convolution(x, reduced5, 1, activation="relu"), full5, 5, pad=2, activation="relu"),
            b.convolution(b.pool(x, 3, 1, pad=1), pooled, 1, activation="relu"),
        ]
        x = b.concatenate(branches)
        if index in _POOLED_AFTER:
            x = b.pool(x, 3, 2)
    return b.finish(b.unary("Softmax", b.dense(b.pool(x, 7, 1, average=True), CLASSES)))


@network("resnet18")
def resnet18() -> Network:
    """ResNet-18; 224x224."""
    return _resnet18(int8=False)


@network("resnet18_int8")
def resnet18_int8() -> Network:
    """ResNet-18 with int8 convolutions."""
    return _resnet18(int8=True)


def _resnet18(*, int8: bool) -> Network:
    b = Builder((3, 224, 224), int8=int8)
    x = _resnet_stem(b)
    for stage, channels in enumerate((64, 128, 256, 512)):
        for block in range(2):
            stride = 2 if stage > 0 and block == 0 else 1
            # A projection also where the shape stays: so it is in the Caffe model.
            shortcut = b.convolution(x, channels, 1, stride=stride) if block == 0 else x
            y = b.convolution(x, channels, 3, stride=stride, pad=1, activation="relu")
            y = b.convolution(y, channels, 3, pad=1)
            x = b.unary("ReLU", b.eltwise_sum(shortcut, y))
    return _resnet_head(b, x)


@network("resnet50")
def resnet50() -> Network:
    """ResNet-50, strides in the first 1x1 convolution of a stage as in the paper; 224x224."""
    return _resnet50(int8=False)


@network("resnet50_int8")
def resnet50_int8() -> Network:
    """ResNet-50 with int8 convolutions."""
    return _resnet50(int8=True)


def _resnet50(*, int8: bool) -> Network:
    b = Builder((3, 224, 224), int8=int8)
    x = _resnet_stem(b)
    for stage, (channels, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            shortcut = b.convolution(x, 4 * channels, 1, stride=stride) if block == 0 else x
            y = b.convolution(x, channels, 1, stride=stride, activation="relu")
            y = b.convolution(y, channels, 3, pad=1, activation="relu")
            y = b.convolution(y, 4 * channels, 1)
            x = b.unary("ReLU", b.eltwise_sum(shortcut, y))
    return _resnet_head(b, x)


def _resnet_stem(b: Builder) -> Blob:
    return b.pool(b.convolution(b.input, 64, 7, stride=2, pad=3, activation="relu"), 3, 2)


def _resnet_head(b: Builder, x: Blob) -> Network:
    return b.finish(b.unary("Softmax", b.dense(b.pool(x, 7, 1, average=True), CLASSES)))
