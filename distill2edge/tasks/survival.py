"""The schemes for which a merge shows whether an adapter survives; one per kind of grid."""

from __future__ import annotations

from distill2edge.quantize.schemes import parse_scheme

SURVIVAL = tuple(map(parse_scheme, ("onnx:int8", "onnx:int4-b32", "gguf:Q8_0", "gguf:Q4_K_M", "gguf:Q4_0")))
