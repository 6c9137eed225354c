"""What a training on later windows forgets: the loss on fixed older windows, before it and after it."""

from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np

from kronos.config.schema import Config
from kronos.data.extra_columns import model_columns
from kronos.data.splits import Ranges
from kronos.data.store import BarStore
from kronos.stages.additions import side_inputs
from kronos.stages.inputs import windows_of
from kronos.training.validation import score_alone
from kronos.utils.errors import UserError


class OlderLoss:
    """The `val_loss` of models on the same windows of the training range, all of whose bars are before `since`.

    At most n_val_iter windows, chosen by the seed, in float32 whatever the training's number format.
    """

    def __init__(self, config: Config, store: BarStore, splits: Ranges, since: date, model: Any) -> None:
        """Raise UserError where no window ends before that day."""
        from kronos.data.windows import Windows

        data, training = config.data, config.training
        length = data.lookback_window + data.predict_window
        split = windows_of(config, store, "train", splits, length)
        last = np.asarray(store.session)[split.starts + length - 1]
        starts = split.starts[store.day[last].astype("datetime64[D]") < np.datetime64(since, "D")]
        if not len(starts):
            raise UserError(f"no window of {length} bars of train_time_range ends before since {since}")
        self.windows = Windows(
            store, replace(split, starts=starts), lookback=data.lookback_window, clip=data.clip,
            seed=training.seed, columns=model_columns(data), **side_inputs(store, model),
        )  # fmt: skip
        self.most, self.seed = training.n_val_iter, training.seed

    def __len__(self) -> int:
        return min(self.most, len(self.windows))

    def of(self, model: Any, objective: Any, device: Any) -> float:
        """Return the loss of a model, which is left in training mode as the training loop expects it."""
        return score_alone(model.to(device), objective, self.windows, self.most, self.seed, device)[
            "val_loss"
        ]


def forgetting_of(record: Any) -> dict[str, Any]:
    """The figures of forgetting in the record of a training, for the report; empty for one without `since`.

    `since`, `older_windows`, and the losses before and after: `older_loss_...`, and `val_loss_...` of the later
    validation days.
    """
    metrics = record.get("metrics", {})
    if "older_loss_before" not in metrics:
        return {}
    names = ("older_windows", "older_loss_before", "older_loss_after")
    return {
        "since": record["made_from"]["fields"]["since"], **{name: metrics[name] for name in names},
        "val_loss_before": record["curve"][0]["val_loss"], "val_loss_after": metrics["best_val_loss"],
    }  # fmt: skip
