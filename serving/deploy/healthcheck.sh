#!/bin/bash
# Healthy when a version of the model is AVAILABLE, asked through TF Serving's REST status.
# Plain bash: the stock image has neither curl nor wget.
#   healthcheck.sh [model] [REST port]
set -eu
model="${1:-sid_tfx}"
port="${2:-8501}"
exec 3<>"/dev/tcp/127.0.0.1/${port}"
printf 'GET /v1/models/%s HTTP/1.0\r\nHost: localhost\r\n\r\n' "${model}" >&3
grep -q '"state": *"AVAILABLE"' <&3
