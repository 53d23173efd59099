// Package main writes k8sm's packages: a deb, an rpm, and a container image. nfpm.yaml says what the first two contain; units/,
// config/ and scripts/ have their systemd units (https://www.freedesktop.org/software/systemd/man/latest/systemd.service.html),
// configuration files and maintainers' scripts. It is a module of its own, so that km needs none of what it needs.
//
// Start reading at main.
package main
