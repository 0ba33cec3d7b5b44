"""The translators of bpnet's own layers, registered by importing their modules."""

from bpnet.interop.onnx.translations import attention, containers, images, norms, recurrent, rows

__all__ = ["attention", "containers", "images", "norms", "recurrent", "rows"]
