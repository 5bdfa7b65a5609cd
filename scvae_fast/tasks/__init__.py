"""What codes are good for: clustering, segmentation, retrieval, probes, editing. Tensors in, tensors out."""
