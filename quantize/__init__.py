"""int8 that survives: fake quantisation, calibration, quantisation-aware training, and the scales for converters."""
