"""Metrics elsewhere: TensorBoard, trackio or Weights & Biases beside `metrics.jsonl`.

`metrics.jsonl` stays the record; these follow it and may fail. Entry points: `fanout.open_loggers`,
`fanout.require_loggers`, `protocol.MetricLogger`.
"""
