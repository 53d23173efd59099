#!/bin/sh
# Arguments: of dpkg "remove" or "upgrade NEW-VERSION", of rpm 0, or 1 at an upgrade.
set -e
[ -d /run/systemd/system ] || exit 0
case "$1" in
remove | 0)
	systemctl disable --now k8sm-scheduler.service k8sm-dns.service k8sm-apiserver.service k8sm-etcd.service
	;;
esac
