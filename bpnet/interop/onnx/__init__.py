"""Models as ONNX files: `export`, and `translates` for layers of your own.

The extra `onnx` brings the package that writes the file; the translators need none.
"""

from bpnet.interop.onnx import translations as _translations
from bpnet.interop.onnx.exporting import export
from bpnet.interop.onnx.graph import Graph, Value
from bpnet.interop.onnx.registry import translates

__all__ = ["Graph", "Value", "export", "translates"]
assert _translations.__all__  # imported for what it registers
