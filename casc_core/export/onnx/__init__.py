"""The reference of a converted network as an ONNX graph, whose sums are the same whole numbers: it gives the same bits."""
