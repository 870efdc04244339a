"""The functions that ranks run in the campaign: `python lives.py NAME [ARGUMENT ...]`, started by the
stories' `watch`.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings

from cases import CASES
from deaths import meets  # noqa: F401 - a life, found by its name
from ranks import main
from trial import METHODS, Setting


def cells(door: str, *names: str) -> None:
    """Run the cells "case|method" in turn. The first broken promise ends the process, because ranks may then differ."""
    warnings.simplefilter("ignore")
    for name in names:
        case, method = name.split("|")
        try:
            CASES[case].act(Setting(door, METHODS[method]))
        except BaseException as error:
            traceback.print_exc()
            words = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            print(json.dumps({"rank": int(os.environ["RANK"]), "cell": name, "red": words}), flush=True)
            sys.stderr.flush()
            os._exit(9)
        print(json.dumps({"rank": int(os.environ["RANK"]), "cell": name, "red": None}), flush=True)


if __name__ == "__main__":
    main(globals(), *sys.argv[1:])
