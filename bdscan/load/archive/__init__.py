"""Containers of weights, read byte by byte: zips as torch writes them, safetensors, the outline of ONNX."""
