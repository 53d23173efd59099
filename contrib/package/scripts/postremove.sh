#!/bin/sh
# Leaves /var/lib/k8sm, which has the cluster's certificates, keys and data, when it purges, too.
set -e
[ ! -d /run/systemd/system ] || systemctl daemon-reload
