#!/usr/bin/env bash
# MqBroker's scenario drives a real RabbitMQ, which only the system's package manager has.
set -euo pipefail
if ! command -v rabbitmq-server >/dev/null && [ ! -x /usr/sbin/rabbitmq-server ]; then
  as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo)
  "${as_root[@]}" apt-get update -q
  "${as_root[@]}" apt-get install -y -q rabbitmq-server
fi
