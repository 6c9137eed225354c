"""`python -m kronos.stages.search.trial_worker`: one trial of a search in a process of its own.

Reads a configuration as JSON on standard input and writes one line of JSON a report on standard output:
{"step": 10, "metrics": {...}}, and last {"result": {...}} or {"error": "...", "out_of_memory": true}. Everything
else that a training prints goes to standard error. Where `nproc_per_node` is above 1 this process leads the ranks.
Neither MLflow nor Optuna is loaded.
"""

import json
import os
import sys
from typing import Any

from kronos.config.schema import Config
from kronos.distributed.device import is_out_of_memory
from kronos.stages.search.trial import train


def main() -> int:
    """Returns the exit status: 0 with a result, 1 with an error line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # prints of this process, and of those that it starts

    def tell(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    config = Config.model_validate_json(sys.stdin.read())
    try:
        result = train(
            config, lambda step, metrics: tell({"step": step, "metrics": metrics}),
            lambda text: print(text, flush=True),
        )  # fmt: skip
    except Exception as error:
        tell({"error": f"{type(error).__name__}: {error}", "out_of_memory": is_out_of_memory(error)})
        return 1
    tell({"result": result})
    return 0


if __name__ == "__main__":
    sys.exit(main())
