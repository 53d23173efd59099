#!/bin/sh
# Starts nothing that did not run before. Arguments: of dpkg "configure [OLD-VERSION]", of rpm 1, or 2 at an upgrade.
set -e
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload
case "$1 $2" in
"configure "?* | "2 "*)
	# One after the other, in the order in which they need each other; only those that run.
	for unit in k8sm-etcd k8sm-apiserver k8sm-scheduler k8sm-dns; do
		systemctl try-restart "$unit.service" || echo "k8sm: $unit.service did not start again: see systemctl status $unit" >&2
	done
	;;
esac
