"""Applications of codes: clustering, segmentation, retrieval, probes, editing. Tensors in, tensors out."""
