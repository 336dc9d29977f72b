#!/usr/bin/env bash
# Ceph's object gateway, a real server of S3, for tests and measurements: from Debian's or Ubuntu's packages,
# unpacked in a folder, without root, system services or configuration.
#
#   scripts/radosgw.sh unpack FOLDER          download and unpack what is not there yet
#   scripts/radosgw.sh run FOLDER DATA PORT   run it until it is stopped; key AK, secret SK, data in memory.
#                                             The gateway's process is in DATA/gateway.pid; killed, it comes back
set -euo pipefail

packages() {
    # Of what it depends on only the libraries that the system has not: nothing here is a service.
    comm -23 \
        <(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
            --no-enhances radosgw ceph-mon ceph-osd ceph-common | grep -E '^[a-z0-9]' | sort -u) \
        <(dpkg-query -W -f '${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p' | sort -u) |
        grep -E '^(lib|ceph|radosgw|python3-(rados|ceph-argparse|ceph-common|ptable|prettytable|wcwidth)$)' |
        grep -v -e '-perl$' -e '^libelogind'
}

unpack() {
    local root=$1 names
    [ ! -e "$root/complete" ] || return 0
    # Unpacked beside the cache of packages: it can be run again after an interruption.
    mkdir -p "$root/packages"
    names=$(packages)
    (cd "$root/packages" && xargs apt-get download -qq <<<"$names" 2>&1 | grep -v unsandboxed || true)
    for package in "$root"/packages/*.deb; do dpkg -x "$package" "$root"; done
    test -x "$root/usr/bin/radosgw"
    rm -r "$root/packages"
    touch "$root/complete"
}

configure() {
    # `crc` and `tcp_nodelay`: without them each request waits for tens of milliseconds.
    cat >"$CEPH_CONF" <<END
[global]
fsid = $(cat /proc/sys/kernel/random/uuid)
mon host = [v2:127.0.0.1:$monitor/0]
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
mon allow pool size one = true
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
mon max pg per osd = 2000
osd crush chooseleaf type = 0
run dir = $data/run
admin socket = $data/run/\$cluster-\$name.asok
log file = $data/log/\$name.log
pid file = $data/run/\$name.pid
erasure code dir = $lib/ceph/erasure-code
osd class dir = $lib/rados-classes
plugin dir = $lib/ceph
mon warn on pool no redundancy = false
mon data avail crit = 1
ms mon client mode = crc
ms mon cluster mode = crc
ms mon service mode = crc
[mon.a]
mon data = $data/mon
[osd]
osd data = $data/osd
osd objectstore = memstore
memstore device bytes = 1073741824
osd op num shards = 1
osd memory target = 939524096
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:$port tcp_nodelay=1
rgw thread pool size = 32
rgw dns name = localhost
rgw data = $data/rgw
END
}

# Wait until a command succeeds, for at most a minute.
until_it() {
    local _
    for _ in $(seq 1 300); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.2
    done
    echo "not in time: $*" >&2
    exit 1
}

ceph() { PYTHONPATH=$root/usr/lib/python3/dist-packages /usr/bin/python3 -W ignore "$root/usr/bin/ceph" --connect-timeout 5 "$@"; }
osd_is_up() { ceph osd stat | grep -q '1 up'; }
gateway_answers() { (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; }

gateway() {
    # What it has stored is in the others: killed, it starts again with all of it.
    trap 'kill -9 "$!"; exit' TERM
    while sleep 0.1; do
        radosgw -f -n client.rgw >>"$data/log/gateway" 2>&1 &
        echo $! >"$data/gateway.pid"
        wait $! || true
    done
}

run() {
    root=$(cd "$1" && pwd) data=$2 port=$3 monitor=$(($3 + 1))
    lib=$(dirname "$(find "$root/usr/lib" -name rados-classes -type d | head -n 1)")
    export LD_LIBRARY_PATH=$lib:$lib/ceph:$root/usr/lib/ceph:$root/lib/${lib##*/}
    export PATH=$root/usr/bin:$PATH CEPH_CONF=$data/ceph.conf
    mkdir -p "$data"/{mon,osd,run,log,rgw}
    configure
    trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
    trap 'exit 0' TERM INT
    fsid=$(sed -n 's/^fsid = //p' "$CEPH_CONF")
    monmaptool --create --addv a "[v2:127.0.0.1:$monitor/0]" --fsid "$fsid" "$data/monmap" >/dev/null
    ceph-mon --mkfs -i a --monmap "$data/monmap"
    ceph-mon -f -i a >"$data/log/mon" 2>&1 &
    until_it ceph osd create
    ceph-osd --mkfs -i 0 >"$data/log/mkfs" 2>&1
    ceph-osd -f -i 0 >"$data/log/osd" 2>&1 &
    until_it osd_is_up
    gateway &
    until_it gateway_answers
    until_it radosgw-admin user create --uid=u --display-name=u --access-key=AK --secret-key=SK
    echo "ready: http://127.0.0.1:$port"
    wait -n
    echo "a part of it has ended; $data/log says why" >&2
    exit 1
}

"${1:?unpack or run}" "${@:2}"
