"""`python -m kronos.stages.search.trial_worker`: run one trial of a search in a separate process.

Reads a configuration as JSON from standard input and writes one line of JSON per report to standard output:
{"step": 10, "metrics": {...}}, and last {"result": {...}} or {"error": "...", "out_of_memory": true}. All other
output of training goes to standard error. Where `nproc_per_node` is above 1 this process is rank 0. MLflow
and Optuna are not imported.
"""

import json
import os
import sys
from typing import Any

from kronos.config.schema import Config
from kronos.distributed.child_process import exit_with_parent
from kronos.distributed.device import is_out_of_memory
from kronos.stages.search.trial import train


def main() -> int:
    """Run the trial; returns the exit status: 0 with a result, 1 with an error line."""
    exit_with_parent()
    messages = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of this process and its children goes to stderr

    def send(message: dict[str, Any]) -> None:
        messages.write(json.dumps(message) + "\n")
        messages.flush()

    config = Config.model_validate_json(sys.stdin.read())
    try:
        result = train(
            config, lambda step, metrics: send({"step": step, "metrics": metrics}),
            lambda text: print(text, flush=True),
        )  # fmt: skip
    except Exception as error:
        send({"error": f"{type(error).__name__}: {error}", "out_of_memory": is_out_of_memory(error)})
        return 1
    send({"result": result})
    return 0


if __name__ == "__main__":
    sys.exit(main())
