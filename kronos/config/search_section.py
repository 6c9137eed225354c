"""The section of the Optuna search."""

from typing import Annotated, Literal

from pydantic import BeforeValidator

from kronos.config.field_types import Int, Names, OptionalText, Text, split_text
from kronos.config.section import Section, field


class SearchConfig(Section):
    """The Optuna search."""

    search_stage: Literal["tokenizer", "predictor", "both"] = field(
        "predictor", "stage whose fields are searched"
    )
    n_trials: Int = field(20, "trials in total", ge=1)
    search_timeout: Int = field(0, "seconds after which no trial starts; 0 is off", ge=0)
    search_learning_rate: Annotated[tuple[float, float], BeforeValidator(split_text)] = field(
        (1e-6, 1e-3), "log range"
    )
    search_batch_size: Annotated[tuple[int, ...], BeforeValidator(split_text)] = field(
        (16, 32, 64, 128), "choices"
    )
    search_space: OptionalText = field(
        None, "JSON file of further fields to search: float, log, int, categorical, conditional"
    )
    search_metric: Names = field(
        ("val_loss",), "metric that trials are compared by: val_loss, rank_ic, crps, or two of them"
    )
    search_sampler: Literal["tpe", "random"] = field("tpe", "how the next trial is chosen")
    search_pruner: Literal["hyperband", "asha", "median", "none"] = field(
        "hyperband", "how unpromising trials are stopped early"
    )
    search_reports: Int = field(9, "validations per trial, spread evenly over its windows", ge=1, le=1000)
    search_trial_timeout: Int = field(0, "seconds after which a trial is ended as failed; 0 is off", ge=0)
    search_repeats: Int = field(1, "seeds with which each of the best trials is trained", ge=1)
    search_top: Int = field(3, "number of best trials that search_repeats applies to", ge=1)
    search_heartbeat: Int = field(
        20, "seconds between heartbeats; a trial without one for three times as long is tried again", ge=1
    )
    search_path: Text = field("outputs/search", "folder of the studies' results")
    study_name: Text = field("auto", "name of the study; auto derives it from space and inputs")
    storage: Text = field(
        "sqlite:///optuna.db", "Optuna's storage address, shared by all machines of a search"
    )
    n_jobs: Int = field(1, "trials that run at the same time on this machine", ge=1)
