#!/bin/sh
# Install the package and its command line from this folder: setup.sh PYTHON VENV. Needs Python >= 3.10 with venv, and
# a package index.
set -eu
python=$1
venv=$2

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "gradwire needs Python 3.10 or newer, and $python is $("$python" -V 2>&1); say make PYTHON=..." >&2
    exit 1
}
echo "installing gradwire into $venv: torch, NumPy, Numba, matplotlib; a minute or two when they must be downloaded"
# The programs that lay slow links; without them the demo goes on over loopback.
sh "$(dirname "$0")/debian.sh" ip:iproute2 tc:iproute2 unshare:util-linux mount:mount
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[cli]'
