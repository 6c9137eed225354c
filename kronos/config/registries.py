"""Names that a configuration may give and that users can add to; here, so that config imports nothing above it."""

SIGNALS: list[str] = ["last", "mean", "max", "min"]  # `kronos.evaluation.signals.register_signal` appends
