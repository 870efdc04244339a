#!/bin/sh
# Install Debian packages for commands or paths that are missing: debian.sh COMMAND:PACKAGE...
# Only as root and where apt-get exists; else, and if it fails, go on without: what needs them says so itself.
set -u
missing=
for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null || [ -e "${pair%%:*}" ] || missing="$missing ${pair##*:}"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    # shellcheck disable=SC2086 # several packages
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq -y --no-install-recommends $missing >/dev/null && exit 0
fi
echo "going on without$missing"
