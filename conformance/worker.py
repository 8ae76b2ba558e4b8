"""A process that checks the entries named on its standard input, one answer a line."""

from __future__ import annotations

import json
import os
import sys
import warnings
from typing import Any


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing that a library prints can be taken for an answer
    warnings.simplefilter("ignore")
    import torch

    import firepot as fp
    from conformance import modules, operators, optimizers

    # Without a GPU each call of it would queue a traceback, a third of the time of an entry.
    torch.manual_seed = torch.default_generator.manual_seed  # type: ignore[assignment]
    torch.set_num_threads(1)
    fp.set_num_threads(1)
    suites: dict[str, Any] = {"operator": operators, "module": modules, "optimizer": optimizers}
    known = {kind: suite.entries() for kind, suite in suites.items()}
    for line in sys.stdin:
        asked = json.loads(line)
        torch.manual_seed(0)
        fp.manual_seed(0)
        try:
            answer = suites[asked["suite"]].check(known[asked["suite"]][asked["entry"]], asked["samples"])
        except Exception as error:
            answer = {"entry": asked["entry"], "broken": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


main()
