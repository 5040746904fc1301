"""int8 arithmetic in torch: fake quantisation, scales, layers that compute as engines do, and exact steps."""
