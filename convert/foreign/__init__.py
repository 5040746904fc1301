"""Other people's detectors: an ONNX file becomes a bundle, held against onnxruntime on the file itself.

``kind.py`` says what a kind of detector is to this; each other file but ``graph.py`` (what is done to an ONNX graph),
``original.py`` (the file as its authors run it) and ``importing.py`` (all of it together) is one kind.
"""

from . import retinaface, scrfd, ultralight, yolov5face, yunet  # noqa: F401  (they register their kinds)
from .importing import Import, import_detector, looks_like
from .kind import kind

__all__ = ["Import", "import_detector", "kind", "looks_like"]
