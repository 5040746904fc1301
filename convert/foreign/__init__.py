"""Other people's detectors: an ONNX file or ncnn pair becomes a bundle, held against the file itself.

``kind.py`` says what a kind of detector is to this, and ``importing.py`` puts all of it together. Beside the kinds
there are ``graph.py`` (what is done to an ONNX graph), ``pair.py`` and ``pair_layers.py`` (an ncnn pair as one),
``original.py`` (the file as its authors run it), and ``int8.py``, ``int8_spared.py`` and ``int8_tflite.py``.
"""

from . import retinaface, scrfd, ultralight, yolov5face, yunet  # noqa: F401  (they register their kinds)
from .importing import Import, import_detector, looks_like
from .kind import kind

__all__ = ["Import", "import_detector", "kind", "looks_like"]
