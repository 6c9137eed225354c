"""A run that grows: one run in the tracking store for something that is measured again from day to day."""

from collections.abc import Mapping
from typing import Any

from kronos.tracking.client import Tracking
from kronos.tracking.run import NOTE, TAG, Run

GROWS = "grows"  # tag by which a later process finds the run again


def grow(
    tracking: Tracking,
    identity: str,
    name: str,
    step: int,
    values: Mapping[str, float],
    tags: Mapping[str, Any],
    note: str,
) -> Run:
    """Log values at a step of the run with this identity, which is created where there is none; returns the run.

    A step that has these values already gets nothing new; one that has others gets them too, and the last ones count.
    `note` replaces the description of the run. Raises TrackingAway as `Tracking.run` does.
    """
    query = f"tags.`{TAG}{GROWS}` = '{identity}'"
    found = tracking.ask(tracking.client.search_runs, [tracking.experiment_id], query, max_results=1)
    known = found[0].info.run_id if found else None
    before = found[0].data.metrics if found else {}
    with tracking.run(name, {**tags, GROWS: identity, NOTE: note}, run_id=known) as run:
        if {metric: before.get(metric) for metric in values} != dict(values):
            run.there = {}
        run.metrics(step, values)
    return run
