# Runs inside the system that scripts/try-package starts. It executes the steps in order and stops at the first failure.
set -euo pipefail
step() { printf -- '-- %s\n' "$*"; }
fail() { echo "FAILED: $*"; systemctl status --no-pager -l imis-gateway.service 2>&1 | tail -n 30 || true; exit 1; }

step install
export DEBIAN_FRONTEND=noninteractive
dpkg -i /package.deb >/dev/null
getent passwd imis-gateway >/dev/null || fail "no user"
[ "$(stat -c '%a %U' /etc/imis-gateway/secrets)" = "700 root" ] || fail "rights of the secrets' folder"
systemctl is-enabled --quiet imis-gateway.service && fail "enabled before it is configured"
imis-gateway version
man -w imis-gateway imis-gateway.yaml >/dev/null 2>&1 || [ -e /usr/share/man/man5/imis-gateway.yaml.5.gz ] || fail "no manual pages"

step "a configuration that is not ready is refused, once"
systemctl start imis-gateway.service && fail "started with the shipped example"
sleep 3
restarts=$(systemctl show -p NRestarts --value imis-gateway.service)
[ "$restarts" = 0 ] || fail "systemd started it again $restarts times"
systemctl reset-failed imis-gateway.service imis-gateway.socket || true

step configure
cd /etc/imis-gateway
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=members.example.org \
    -addext subjectAltName=DNS:members.example.org -keyout certs/members.key -out certs/members.pem 2>/dev/null
chgrp imis-gateway certs/members.key && chmod 640 certs/members.key
printf 'a-password' | install -m 600 /dev/stdin secrets/imis-password
printf 'a-shared-secret-of-more-than-thirty-two-characters' | install -m 600 /dev/stdin secrets/zendesk-jwt
cat >config.yaml <<'YAML'
version: 1
sites:
  - hosts: [members.example.org]
    certificate: {chain: certs/members.pem, key: certs/members.key}
    upstream: {servers: ["http://127.0.0.1:9000"]}
    imis:
      recognise: {method: client_context, page: /probe}
      service_account: {username: svc, password: {credential: imis-password}}
    apps:
      - {name: Help, path: /sso/zendesk, zendesk: {subdomain: contoso, shared_secret: {credential: zendesk-jwt}}}
YAML
mkdir -p /srv/site && echo "a page of iMIS" >/srv/site/index.html
systemd-run --quiet --unit=site python3 -m http.server --directory /srv/site --bind 127.0.0.1 9000
page() { curl -fsS --max-time 10 --resolve members.example.org:443:127.0.0.1 --cacert certs/members.pem https://members.example.org/; }

step start
systemctl start imis-gateway.socket imis-gateway.service || fail "does not start"
[ "$(systemctl show -p User --value imis-gateway)" = imis-gateway ] || fail "user"
for _ in $(seq 50); do page >/dev/null 2>&1 && break; sleep 0.2; done
[ "$(page)" = "a page of iMIS" ] || fail "no page"
curl -fsS http://127.0.0.1:9180/readyz
systemctl show -p StatusText --value imis-gateway | grep -q 'serves 1 site' || fail "no status text"
imis-gateway status
imis-gateway healthcheck

step "reload: well, badly, well again"
sed -i 's/^version: 1$/version: 1\nlog: {access: false}/' config.yaml
systemctl reload imis-gateway || fail "reload"
echo 'colour: red' >>config.yaml
systemctl reload imis-gateway && fail "a bad configuration was taken up"
systemctl show -p StatusText --value imis-gateway | grep -q 'failed' || fail "the failure is not seen"
[ "$(page)" = "a page of iMIS" ] || fail "the old one is gone"
sed -i '/colour/d' config.yaml
systemctl reload imis-gateway || fail "reload after mending"

step "restarts under load lose nothing"
(count=0; while [ ! -e /tmp/over ]; do page >/dev/null || { echo "lost after $count" >/tmp/lost; break; }; count=$((count + 1)); done; echo "$count" >/tmp/count) &
load=$!
for _ in 1 2 3 4 5; do systemctl restart imis-gateway || fail "restart"; sleep 0.3; done
touch /tmp/over; wait "$load"
[ ! -e /tmp/lost ] || fail "$(cat /tmp/lost)"
echo "$(cat /tmp/count) requests during five restarts"

step "an upgrade under load loses nothing"
rm -f /tmp/over /tmp/lost
(count=0; while [ ! -e /tmp/over ]; do page >/dev/null || { echo "lost after $count" >/tmp/lost; break; }; count=$((count + 1)); done; echo "$count" >/tmp/count) &
load=$!
before=$(systemctl show -p MainPID --value imis-gateway)
for _ in 1 2; do dpkg -i /package.deb >/dev/null || fail "upgrade"; sleep 0.5; done
touch /tmp/over; wait "$load"
[ "$(systemctl show -p MainPID --value imis-gateway)" != "$before" ] || fail "the old program still runs"
[ ! -e /tmp/lost ] || fail "$(cat /tmp/lost)"
echo "$(cat /tmp/count) requests during two upgrades"

step "on ports of its own, as docs/operations.md has it"
mkdir -p /etc/systemd/system/imis-gateway.service.d
cp /own-ports.conf /etc/systemd/system/imis-gateway.service.d/
systemctl mask --now --quiet imis-gateway.socket && systemctl daemon-reload && systemctl restart imis-gateway || fail "own ports"
[ "$(page)" = "a page of iMIS" ] || fail "no page on its own ports"
systemctl is-active --quiet imis-gateway.socket && fail "the socket is still there"
rm /etc/systemd/system/imis-gateway.service.d/own-ports.conf
systemctl stop imis-gateway && systemctl unmask --quiet imis-gateway.socket && systemctl daemon-reload
systemctl start imis-gateway.socket imis-gateway.service || fail "back on the socket"

step "the journal has fields and priorities"
sed -i 's/^log: .*/log: {format: journald}/' config.yaml
systemctl restart imis-gateway
echo 'colour: red' >>config.yaml
systemctl reload imis-gateway && fail "a bad configuration was taken up"
sed -i '/colour/d' config.yaml && systemctl reload imis-gateway
journalctl --sync || true
journalctl -u imis-gateway -p err -o json --no-pager | grep -q '"F_PROBLEM"' || fail "no error with its fields in the journal"

step "a gateway that stands still is restarted by the watchdog"
mkdir -p /run/systemd/system/imis-gateway.service.d
printf '[Service]\nWatchdogSec=6\n' >/run/systemd/system/imis-gateway.service.d/watchdog.conf
systemctl daemon-reload && systemctl restart imis-gateway
before=$(systemctl show -p MainPID --value imis-gateway)
sleep 8
[ "$(systemctl show -p MainPID --value imis-gateway)" = "$before" ] || fail "restarted though it goes on"
kill -STOP "$before"
for _ in $(seq 60); do after=$(systemctl show -p MainPID --value imis-gateway); [ "$after" = "$before" ] || [ "$after" = 0 ] || break; sleep 0.5; done
[ "$after" != "$before" ] && [ "$after" != 0 ] || fail "the watchdog did not act"
for _ in $(seq 50); do page >/dev/null 2>&1 && break; sleep 0.2; done
[ "$(page)" = "a page of iMIS" ] || fail "no page after the watchdog"

step "stop and remove"
cp config.yaml /root/config.yaml
systemctl stop imis-gateway.service || fail "stop"
[ "$(systemctl show -p Result --value imis-gateway)" = success ] || fail "the stop was no success"
dpkg -r imis-gateway >/dev/null
[ ! -e /usr/bin/imis-gateway ] && [ -e /etc/imis-gateway/config.yaml ] && [ -e /etc/imis-gateway/secrets/zendesk-jwt ] || fail "removal"
dpkg -P imis-gateway >/dev/null
[ -e /etc/imis-gateway/secrets/zendesk-jwt ] || fail "a purge took the secrets"
step "the .rpm: installed, started, upgraded under load, removed"
# On Debian, rpm needs --force-debian and --nodeps, because it does not know the installed packages.
rpm() { command rpm --force-debian "$@" 2> >(grep -v 'should not be used directly' >&2); }
userdel imis-gateway
rpm -i --nodeps /package.rpm || fail "the .rpm is not installed"
getent passwd imis-gateway >/dev/null || fail "no user"
chgrp imis-gateway certs certs/members.key
systemctl is-enabled --quiet imis-gateway.service && fail "enabled before it is configured"
cp /root/config.yaml config.yaml
systemctl start imis-gateway.socket imis-gateway.service || fail "does not start"
for _ in $(seq 50); do page >/dev/null 2>&1 && break; sleep 0.2; done
[ "$(page)" = "a page of iMIS" ] || fail "no page"
rm -f /tmp/over /tmp/lost
(count=0; while [ ! -e /tmp/over ]; do page >/dev/null || { echo "lost after $count" >/tmp/lost; break; }; count=$((count + 1)); done; echo "$count" >/tmp/count) &
load=$!
before=$(systemctl show -p MainPID --value imis-gateway)
rpm -U --nodeps --force /package.rpm || fail "the .rpm does not upgrade itself"
sleep 0.5
touch /tmp/over; wait "$load"
[ "$(systemctl show -p MainPID --value imis-gateway)" != "$before" ] || fail "the old program still runs"
[ ! -e /tmp/lost ] || fail "$(cat /tmp/lost)"
cmp -s /root/config.yaml config.yaml || fail "the upgrade has changed the configuration"
echo "$(cat /tmp/count) requests during an upgrade"
rpm -e imis-gateway || fail "the .rpm is not removed"
[ ! -e /usr/bin/imis-gateway ] && [ -e secrets/zendesk-jwt ] || fail "removal"
systemctl is-active --quiet imis-gateway.service && fail "removed, and it runs"
step done
