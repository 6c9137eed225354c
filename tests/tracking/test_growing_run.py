"""One run that grows: found again by its identity, a step once, other values of a step beside the first ones."""

from pathlib import Path

import pytest

from kronos.tracking.client import Tracking
from kronos.tracking.growing_run import grow


@pytest.mark.slow
def test_a_run_is_found_again_and_a_step_with_the_same_values_gets_nothing_new(in_folder: Path) -> None:
    def add(step: int, value: float, identity: str = "one") -> str:
        tracking = Tracking("sqlite:///t.db", "growing", say=lambda line: None)
        with tracking.run("the run of a day", {}) as outer:
            run = grow(tracking, identity, f"live to {step}", step, {"live/skill": value}, {}, f"to {step}")
        assert run.id != outer.id
        return run.id

    first = add(1, 0.5)
    assert [add(1, 0.5), add(2, 0.5), add(2, 0.5), add(3, 0.25), add(3, 0.75)] == 5 * [first]
    assert add(3, 0.75, "another") != first
    client = Tracking("sqlite:///t.db", "growing", say=lambda line: None).client
    points = sorted((point.step, point.value) for point in client.get_metric_history(first, "live/skill"))
    assert points == [(1, 0.5), (2, 0.5), (3, 0.25), (3, 0.75)]
    run = client.get_run(first)
    assert run.info.status == "FINISHED" and run.info.run_name == "live to 3"
    assert run.data.metrics == {"live/skill": 0.75} and run.data.tags["mlflow.note.content"] == "to 3"
    assert "mlflow.parentRunId" not in run.data.tags
