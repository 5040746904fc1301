"""Numbers for faces by a recognition network of your own, for ``edgeface detect --embed embed_onnx:embed``.

Takes any ONNX file with one picture input, float32 (N, 3, 112, 112), and one output (N, D), as ArcFace's and most of
its successors are published. Needs onnxruntime; RECOGNITION_ONNX says where the file is:

    cp examples/embed_onnx.py .
    RECOGNITION_ONNX=my_recognition.onnx edgeface detect photos --embed embed_onnx:embed --csv faces.csv

Two faces are compared by the dot product of their rows, which are of length 1.
"""

import os

import numpy as np
import onnxruntime

SESSION = onnxruntime.InferenceSession(os.environ.get("RECOGNITION_ONNX", "recognition.onnx"))
INPUT = SESSION.get_inputs()[0]


def embed(faces: np.ndarray) -> np.ndarray:
    """A row of length 1 for each face, float32 (N, D); ``faces`` are upright, uint8 (N, 112, 112, 3) BGR."""
    # Most such networks were trained on RGB in -1..1: look at what yours says.
    x = (faces[:, :, :, ::-1].astype(np.float32) - 127.5) / 127.5
    x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    # A file that was exported for one picture at a time gets one at a time.
    size = len(x) if not isinstance(INPUT.shape[0], int) else INPUT.shape[0]
    rows = np.concatenate(
        [SESSION.run(None, {INPUT.name: x[i : i + size]})[0] for i in range(0, len(x), size)]
    )
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
