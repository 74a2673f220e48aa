"""Ray and DeepSpeed; the only place that imports them."""
