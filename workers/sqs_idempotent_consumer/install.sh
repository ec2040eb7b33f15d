#!/bin/bash
# Make a service of the worker on a fresh Amazon Linux 2023, from the folder that it was unpacked to.
# Its settings are in /etc/fulfil-orders.env and in the environment; $LOG_GROUP is where its reports
# go. It ends well if the worker has begun to work: its unit tells (Type=notify).
set -euo pipefail
cd "$(dirname "$0")"

# At the release that the image is locked to; the repository is in S3, which the VPC has a gateway to.
dnf install -y -q python3-boto3 amazon-cloudwatch-agent logrotate

id fulfil-orders >/dev/null 2>&1 ||
  useradd --system --no-create-home --shell /sbin/nologin fulfil-orders
chmod -R u=rwX,go=rX .
install -d -m 755 /var/log/fulfil-orders

cat >/etc/logrotate.d/fulfil-orders <<'END'
/var/log/fulfil-orders/reports.log {
  daily
  maxsize 100M
  rotate 2
  copytruncate
  missingok
}
END
cat >/opt/aws/amazon-cloudwatch-agent/etc/fulfil-orders.json <<END
{"logs": {"logs_collected": {"files": {"collect_list": [{
  "file_path": "/var/log/fulfil-orders/reports.log",
  "log_group_name": "$LOG_GROUP",
  "log_stream_name": "{instance_id}"
}]}}}}
END
/opt/aws/amazon-cloudwatch-agent/bin/amazon-cloudwatch-agent-ctl \
  -a fetch-config -m ec2 -s -c file:/opt/aws/amazon-cloudwatch-agent/etc/fulfil-orders.json

cp fulfil-orders.service /etc/systemd/system/
systemctl daemon-reload
systemctl enable --now fulfil-orders.service
