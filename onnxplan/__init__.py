"""onnxplan"""
