"""The board half: engines, preprocessing, decoding, NMS and the detector; numpy and one engine, no torch."""
