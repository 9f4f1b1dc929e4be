#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# packages.sh [--for-try] - install what tools/packages names and this machine lacks; silent where nothing is missing.
# packages.sh [--for-try] --list | --missing - print names and change nothing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

drop='^unpack '
if [ "${1:-}" = --for-try ]; then
        drop='^(unpack|check) '
        shift
fi

list() {
        sed -E -e 's/#.*//' -e 's/[[:space:]]*$//' -e '/^$/d' -e "/$drop/d" -e 's/^check //' "$here/packages"
}

missing() {
        local name
        for name in $(list); do
                [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null || true)" = installed ] || echo "$name"
        done
}

case ${1:-} in
--list) list; exit ;;
--missing) missing; exit ;;
'') ;;
*) echo "usage: packages.sh [--for-try] [--list|--missing]" >&2; exit 64 ;;
esac

if ! command -v apt-get >/dev/null; then
        echo "packages: no apt-get here; install by hand: $(list | tr '\n' ' ')" >&2
        exit 1
fi
mapfile -t want < <(missing)
[ ${#want[@]} -gt 0 ] || exit 0

root=()
if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo >/dev/null; then
                echo "packages: run as root, or install sudo; missing: ${want[*]}" >&2
                exit 1
        fi
        root=(sudo)
fi
echo "installing: ${want[*]}"
"${root[@]}" apt-get update -q
# noninteractive: a question from a package would wait for ever in a CI
"${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${want[@]}"
