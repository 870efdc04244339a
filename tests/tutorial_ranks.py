"""Run the tutorial's script as a rank in its story: tutorial_ranks.py SCRIPT STEPS"""

import io
import json
import os
import runpy
import sys
from contextlib import redirect_stdout

if __name__ == "__main__":
    script, steps = sys.argv[1:]
    sys.argv = [script, steps]
    with redirect_stdout(io.StringIO()) as printed:
        runpy.run_path(script, run_name="__main__")
    print(json.dumps({"rank": int(os.environ["RANK"]), "printed": printed.getvalue()}))
