"""Metrics elsewhere: TensorBoard, trackio or Weights & Biases beside `metrics.jsonl`.

`metrics.jsonl` stays the record; these follow it and may fail.
"""
