"""Detected faces as the files of other tools: a CSV table, COCO, YOLO, Pascal VOC, and faces cut out.

Each is a class with ``write``, which takes one ``DetectedPicture`` after the other. Files of one run (CSV, COCO) are
opened as context managers, and appear when the block ends without an error. The readers of such files, for training,
are in ``edgeface.data.exports``.
"""
