#!/bin/sh
# Installs what tests/slurm needs where that can be done: Debian or Ubuntu, as root. Elsewhere it says why not; the tests
# then skip with the same reason. Services are not started: the tests bring up daemons of their own and stop them.
set -u
if command -v slurmctld >/dev/null 2>&1 && command -v munged >/dev/null 2>&1; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "slurm-wlm and munge are not installed, and installing them needs root and apt-get: the tests will skip"
    exit 0
fi
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
install() { timeout 240 apt-get install -y --no-install-recommends slurm-wlm munge >/dev/null 2>&1; }
install || { timeout 120 apt-get update >/dev/null 2>&1 && install; } ||
    echo "apt-get could not install slurm-wlm and munge: the tests will skip"
exit 0
