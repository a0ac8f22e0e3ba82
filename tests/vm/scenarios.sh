#!/bin/sh
# What happens in a virtual machine of `cargo xtask vm`: the package, the unit and the program under a
# real systemd, as an operator uses them. It runs as root, once in each boot, and says on the second
# serial line how each scenario ended: `ok|SECONDS|NAME|what was seen`.
#
# A scenario is a function that fails, or says in $SEEN what was seen. Those that promise that nobody
# feels anything have clients of baton-load at work meanwhile.

PAYLOAD=/run/payload
LOGS=/var/log/scenarios
RESULTS=/dev/ttyS1
STATE=/var/lib/scenarios
CA=/var/lib/baton/local-ca/ca.pem
# An emulated machine takes its time.
LIMIT=120

main() {
    mkdir -p $LOGS $STATE
    WORDS=$(sed -n 's/.*scenarios=\([^ ]*\).*/\1/p' /proc/cmdline)
    MODE=${WORDS%%,*}
    ONLY=$(echo "$WORDS" | cut -s -d, -f2- | tr , ' ')
    stty -F $RESULTS -opost 2>/dev/null
    if [ ! -e $STATE/rebooting ]; then
        say "$(uname -r), systemd $(systemctl --version | awk 'NR == 1 { print $2 }'), docker $(docker version --format '{{.Server.Version}}' 2>&1 | tail -1), $MODE"
        containers > $LOGS/containers 2>&1
        first_boot
    else
        scenario reboot after_reboot
    fi
    leave
}

first_boot() {
    must install
    scenario sandbox sandbox
    scenario reload reload
    scenario package-upgrade package_upgrade
    scenario kill-worker kill_worker
    scenario kill-controller kill_controller
    scenario restart restart
    scenario crash-of-all crash_of_all
    [ "$MODE" != quick ] || return
    scenario refused-reload refused_reload
    scenario invalid-configuration invalid_configuration
    scenario migration migration
    scenario rollback rollback
    scenario package-downgrade package_downgrade
    scenario without-docker without_docker
    scenario stuck-controller stuck_controller
    scenario security-module security_module
    [ "$MODE" != all ] || all_of_a_suite
    if wanted reboot; then reboot_now; fi
}

# What goes the same way on each kernel.
all_of_a_suite() {
    ! has podman || scenario podman podman_beside
    scenario remove-and-purge remove_and_purge
    scenario ansible ansible_twice
    scenario takeover takeover
}

# --- scenarios ---

install() {
    dpkg -i $PAYLOAD/1.deb || return
    systemctl is-enabled baton || return
    systemctl is-active baton || return
    until_ok answers || return
    man_pages=$(ls /usr/share/man/man1/baton*.1.gz | wc -l)
    [ "$man_pages" -gt 5 ] || fail "only $man_pages man pages" || return
    [ "$(stat -c %U:%a /var/lib/baton)" = baton:700 ] || fail "state directory" || return
    plain=$(curl -s -o /dev/null -w '%{http_code}' -H 'Host: app.test' http://127.0.0.1/) || return
    [ "$plain" = 301 ] || fail "plain HTTP answered $plain" || return
    SEEN="handoff $(status handoff.mode): $(status handoff.why)"
}

# Every layer that the unit must not take away.
sandbox() {
    worker=$(worker_pid) || return
    [ "$(stat -c %U "/proc/$worker")" != root ] || fail "the worker is root's" || return
    caps=$(awk '/^CapEff/ { print $2 }' "/proc/$worker/status")
    [ "$caps" = 0000000000000000 ] || fail "the worker has capabilities $caps" || return
    grep -q '^Seccomp:.*2' "/proc/$worker/status" || fail "no seccomp filter" || return
    SEEN=$(baton status | grep -i sandbox | head -1)
    [ -n "$SEEN" ] || return
    grep -q landlock /sys/kernel/security/lsm && return
    without=$(baton status | grep 'this kernel has no Landlock') || fail "no word about Landlock" || return
    SEEN="$SEEN; $without"
}

reload() {
    load || return
    set_key 'streams = ' 'streams = 99' || return
    patiently systemctl reload baton || return
    nobody_felt_anything
}

refused_reload() {
    load || return
    cp -p /etc/baton/baton.toml /tmp/good
    echo 'nonsense = 1' >> /etc/baton/baton.toml
    systemctl reload baton && fail "a reload that is refused looks like one that worked"
    refused=$?
    cp -p /tmp/good /etc/baton/baton.toml
    [ $refused -ne 0 ] || return
    systemctl is-active baton || return
    systemctl reload baton || return
    nobody_felt_anything
}

package_upgrade() {
    load || return
    pid=$(main_pid)
    before=$(status 'generations[0].id')
    patiently upgraded_to $PAYLOAD/2.deb || fail "generation $before serves on" || return
    same_controller "$pid" || return
    nobody_felt_anything
}

rollback() {
    # A restart has forgotten the program before.
    patiently baton upgrade || return
    load || return
    pid=$(main_pid)
    patiently baton rollback || return
    same_controller "$pid" || return
    nobody_felt_anything
}

package_downgrade() {
    load || return
    pid=$(main_pid)
    before=$(status 'generations[0].id')
    patiently upgraded_to $PAYLOAD/1.deb || fail "generation $before serves on" || return
    same_controller "$pid" || return
    nobody_felt_anything
}

# Its own connections go with it; whoever comes then is served.
kill_worker() {
    worker=$(worker_pid) || return
    load || return
    kill -KILL "$worker" || return
    until_ok another_worker "$worker" || return
    until_ok answers || return
    finish_load
    SEEN="felt by the clients of the worker: $(tail -1 "$LOGS/load-$NAME")"
}

kill_controller() {
    load || return
    pid=$(main_pid)
    kill -KILL "$pid" || return
    until_ok another_controller "$pid" || return
    until_ok taken_over || return
    nobody_felt_anything
}

restart() {
    load || return
    systemctl restart baton || return
    until_ok taken_over || return
    nobody_felt_anything
}

# Whoever waits in a queue meanwhile is served by the next ones.
crash_of_all() {
    began_crash=$(now)
    systemctl kill --signal=KILL --kill-whom=all baton || return
    answer=$(curl -sS --retry 200 --retry-delay 0 --retry-all-errors --retry-max-time $LIMIT -o /dev/null -w '%{http_code}' --cacert $CA --resolve app.test:443:127.0.0.1 https://app.test/ 2>&1 | tail -1)
    [ "$answer" = 200 ] || fail "answered $answer" || return
    SEEN="serves again after $(since "$began_crash") s"
}

# It is not started again and again, and says what is wrong.
invalid_configuration() {
    cp -p /etc/baton/baton.toml /tmp/good
    systemctl stop baton || return
    echo 'nonsense = 1' >> /etc/baton/baton.toml
    systemctl start baton && fail "it started" && return 1
    status=$(systemctl show -p ExecMainStatus --value baton)
    state=$(systemctl show -p ActiveState --value baton)
    cp -p /tmp/good /etc/baton/baton.toml
    [ "$status" = 78 ] || fail "exit status $status" || return
    [ "$state" = failed ] || fail "it is $state" || return
    serves_again
}

# Docker goes away and comes back: routes stay.
without_docker() {
    load || return
    systemctl stop docker.socket docker.service || return
    systemctl start docker.service || return
    finish_load
    SEEN="felt while the container was away: $(tail -1 "$LOGS/load-$NAME")"
    docker start app || return
    until_ok answers
}

# The watchdog notices, and nobody else does.
stuck_controller() {
    load || return
    pid=$(main_pid)
    kill -STOP "$pid" || return
    until_ok another_controller "$pid" || return
    until_ok taken_over || return
    nobody_felt_anything
}

# Who takes away what the unit gives: that is told apart from a unit that gives too little.
security_module() {
    if [ -d /sys/fs/selinux ]; then selinux; else apparmor; fi
}

apparmor() {
    profile=/etc/apparmor.d/baton-without-low-ports
    {
        echo 'profile baton-without-low-ports /usr/bin/baton flags=(attach_disconnected) {'
        echo 'file, capability, network, unix, signal, ptrace, audit deny capability net_bind_service, }'
    } > $profile
    apparmor_parser --replace $profile || return
    refused_ports 'apparmor="DENIED".*net_bind_service'
    good=$?
    apparmor_parser --remove $profile && rm $profile || return
    [ $good = 0 ] || return
    serves_again
}

selinux() {
    secilc -c "$(cat /sys/fs/selinux/policyvers)" -o /tmp/policy -f /dev/null $PAYLOAD/selinux.cil || return
    cat /tmp/policy > /sys/fs/selinux/load || return
    echo 1 > /sys/fs/selinux/enforce || return
    policy low_ports 0 || return
    refused_ports 'avc: *denied *{ name_bind }.*src=80'
    good=$?
    policy low_ports 1 || return
    [ $good = 0 ] || return
    serves_again || return
    # Without the selector it serves all the same, and says why.
    policy ebpf 0 || return
    systemctl restart baton || return
    until_ok answers || return
    mode=$(status handoff.mode) why=$(status handoff.why)
    policy ebpf 1 || return
    case "$mode $why" in
        "inherit SELinux or AppArmor refuses eBPF"*) ;;
        *) fail "the handoff is $mode without eBPF: $why" || return ;;
    esac
    # A restart would keep the workers, and their listeners, which have no selector.
    systemctl stop baton || return
    systemctl start baton || return
    until_ok answers || return
    [ "$(status handoff.mode)" = ebpf ] || fail "no selector after SELinux allowed it" || return
    echo 0 > /sys/fs/selinux/enforce
    SEEN="$SEEN; without eBPF: $why"
}

# Switches a boolean of tests/vm/selinux.cil.
policy() {
    echo "$2" > "/sys/fs/selinux/booleans/$1" && echo 1 > /sys/fs/selinux/commit_pending_bools
}

# It does not start, says why, and the kernel's log has the rule that matches $1, where the operator is sent.
refused_ports() {
    systemctl stop baton || return
    systemctl start baton && fail "it started" && return 1
    SEEN=$(journalctl --boot --unit baton --output cat | grep 'SELinux or AppArmor refuses it' | tail -1)
    [ -n "$SEEN" ] || fail "it did not say why" || return
    journalctl --boot --dmesg --output cat | grep -q "$1" || fail "the kernel named no rule where $SEEN sends the operator"
}

serves_again() {
    systemctl reset-failed baton
    systemctl start baton || return
    until_ok answers
}

remove_and_purge() {
    dpkg --remove baton || return
    [ -e /var/lib/baton/local-ca/root.pem ] || fail "a removal took the state" || return
    systemctl is-active baton && fail "it runs" && return 1
    dpkg -i $PAYLOAD/2.deb || return
    until_ok answers || return
    dpkg --purge baton || return
    [ ! -e /var/lib/baton ] || fail "a purge left the state" || return
    [ ! -e /etc/baton/baton.toml ] || fail "a purge left the configuration" || return
    ! pgrep -x baton || fail "a process is left" || return
    dpkg -i $PAYLOAD/1.deb || return
    until_ok answers
}

# Who waits in a queue of a worker that hangs moves on when it dies. Kernels before the fix do not wake who
# gets them: without the sweep they would wait for somebody else to come.
migration() {
    hung=$(worker_pid) || return
    kill -STOP "$hung"
    waiting=
    for client in 1 2 3 4; do
        ask --max-time $LIMIT -o /dev/null > "$LOGS/migration-$client" 2>&1 &
        waiting="$waiting $!"
    done
    until_ok queued 4 || return
    set_key 'streams = ' 'streams = 77' || return
    patiently systemctl reload baton || return
    kill -KILL "$hung" || return
    for client in $waiting; do
        wait "$client" || fail "one of them was not served" || return
    done
    woken=$(wakes) || fail "no word about this kernel" || return
    SEEN="4 moved on, counted: $(baton status --json | jq -c '[.generations[].migrated]'); $woken"
    # Why it is there.
    case "$(uname -r) $woken" in
        6.1.0-47-*"is not woken"*) ;;
        6.1.0-47-*) fail "this kernel does not need the sweep" ;;
    esac
}

# Podman's containers, with its socket as docs/operations.md says.
podman_beside() {
    tar -C /tmp/image -c . | podman import --change 'ENTRYPOINT ["/baton-upstream"]' --change 'EXPOSE 80' - upstream || return
    podman run -d --name pod --log-driver=none -e VIRTUAL_HOST=pod.test upstream || return
    mkdir -p /etc/systemd/system/podman.socket.d
    printf '[Socket]\nSocketGroup=docker\n' > /etc/systemd/system/podman.socket.d/baton.conf
    echo 'z /run/podman 0750 root docker' > /etc/tmpfiles.d/baton-podman.conf
    systemctl daemon-reload
    systemctl restart podman.socket || return
    systemd-tmpfiles --create baton-podman.conf || return
    cp -p /etc/baton/baton.toml /tmp/good
    sed -i 's|^#\?\[docker\]|[docker]|; s|^#\?endpoint = .*|endpoint = "unix:///run/podman/podman.sock"|' /etc/baton/baton.toml
    grep -q '^endpoint' /etc/baton/baton.toml || fail "no endpoint" || return
    systemctl restart baton || return
    until_ok answers pod.test || return
    podman stop -t 1 pod || return
    until_ok is_not_served pod.test || return
    podman start pod || return
    until_ok answers pod.test || return
    cp -p /tmp/good /etc/baton/baton.toml
    systemctl restart baton || return
    until_ok answers || return
    SEEN="Podman $(podman version --format '{{.Client.Version}}')"
}

# The second run changes nothing.
ansible_twice() {
    cp $PAYLOAD/2.deb /tmp/baton.deb
    play check -e baton_package=/tmp/baton.deb --check || return
    play 1 -e baton_package=/tmp/baton.deb || return
    until_ok answers || return
    pid=$(main_pid)
    play 2 -e baton_package=/tmp/baton.deb || return
    changed_nothing 2 || return
    same_controller "$pid"
}

# From H2O, docker-gen and certbot: their ports, and their certificates where they are.
takeover() {
    dpkg --purge baton || return
    older_stack || return
    docker run -d --name old -e VIRTUAL_HOST=old.test upstream || return
    until_ok older_stack_answers || return
    cat > /tmp/takeover.yml <<- 'END'
	baton_package: /tmp/baton.deb
	baton_replaces: [h2o]
	baton_certificate_dirs: [/etc/letsencrypt]
	baton_config: |
	  [tls]
	  certificate_dirs = ["/etc/letsencrypt"]
	END
    cp $PAYLOAD/2.deb /tmp/baton.deb
    play takeover-check -e @/tmp/takeover.yml --check || return
    older_stack_answers || fail "--check stopped the older stack" || return
    play takeover -e @/tmp/takeover.yml || return
    until_ok answers_as_older || return
    ! systemctl is-active h2o || fail "h2o runs" || return
    ! systemctl is-enabled h2o || fail "h2o starts with the host" || return
    pid=$(main_pid)
    play takeover-2 -e @/tmp/takeover.yml || return
    changed_nothing takeover-2 || return
    same_controller "$pid"
}

# Somebody holds a WebSocket, whoever else is stopped.
reboot_now() {
    NAME=reboot
    systemd-run -q -p DefaultDependencies=no $PAYLOAD/baton-load 127.0.0.1:443 app.test --roots $CA --think 500
    until_ok tunnel_is_open
    date +%s > $STATE/rebooting
    systemctl reboot
    exit 0
}

# The host did not wait for the WebSocket.
after_reboot() {
    away=$(($(date +%s) - $(cat $STATE/rebooting)))
    rm $STATE/rebooting
    SEEN="here again after $away s"
    [ $away -lt 240 ] || return
    until_ok answers || return
    [ "$(systemctl is-system-running)" != degraded ] || fail "$(systemctl --failed --plain --no-legend | tr '\n' ' ')"
}

# --- what they are made of ---

containers() {
    systemctl start docker >/dev/null 2>&1
    root=/tmp/image
    mkdir -p $root
    cp $PAYLOAD/baton-upstream $root/
    ldd $PAYLOAD/baton-upstream | grep -o '/[^ ]*' | while read -r library; do
        mkdir -p "$root$(dirname "$library")"
        cp "$library" "$root$library"
    done
    tar -C $root -c . | docker import --change 'ENTRYPOINT ["/baton-upstream"]' --change 'EXPOSE 80' - upstream
    docker run -d --name app --restart=unless-stopped -e VIRTUAL_HOST=app.test upstream
}

# Of app.test, where $HOST says nothing else.
ask() {
    curl -sS --max-time 20 --cacert $CA --resolve "${HOST:-app.test}:443:127.0.0.1" "$@" "https://${HOST:-app.test}/"
}

answers() {
    [ "$(HOST=$1 ask -o /dev/null -w '%{http_code}')" = 200 ]
}

is_not_served() {
    [ "$(HOST=$1 ask -o /dev/null -w '%{http_code}')" != 200 ]
}

# Somebody who has both ports, and a certificate as certbot keeps them.
older_stack() {
    archive=/etc/letsencrypt/archive/old.test
    live=/etc/letsencrypt/live/old.test
    mkdir -p $archive $live
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=old.test -addext subjectAltName=DNS:old.test -keyout $archive/privkey1.pem -out $archive/fullchain1.pem || return
    ln -sf ../../archive/old.test/privkey1.pem $live/privkey.pem
    ln -sf ../../archive/old.test/fullchain1.pem $live/fullchain.pem
    chmod 700 /etc/letsencrypt/archive /etc/letsencrypt/live
    chmod 600 $archive/privkey1.pem
    cat > /etc/systemd/system/h2o.service <<- END
	[Service]
	ExecStart=/bin/sh -c '$PAYLOAD/baton-upstream --listen 0.0.0.0:80 & exec openssl s_server -quiet -www -accept 443 -cert $live/fullchain.pem -key $live/privkey.pem'
	[Install]
	WantedBy=multi-user.target
	END
    systemctl daemon-reload
    systemctl enable --now h2o
}

ask_older() {
    curl -sS --max-time 20 --cacert /etc/letsencrypt/live/old.test/fullchain.pem --resolve old.test:443:127.0.0.1 "$@" https://old.test/
}

older_stack_answers() { ask_older | grep -q s_server; }

# With the same certificate.
answers_as_older() {
    systemctl is-active baton && [ "$(ask_older -o /dev/null -w '%{http_code}')" = 200 ]
}

# Runs the playbook; what it says is kept.
play() {
    log=$LOGS/ansible-$1
    shift
    (cd $PAYLOAD/ansible && ansible-playbook -i localhost, -c local "$@" playbook.yml) > "$log" 2>&1 || fail "$(grep -m 1 -A 3 fatal "$log" | tr '\n' ' ')"
}

changed_nothing() {
    recap=$(grep '^localhost' "$LOGS/ansible-$1" | tail -1)
    SEEN="second run: $(echo "$recap" | tr -s ' ')"
    case "$recap" in
        *changed=0*) ;;
        *) fail "it changed something" ;;
    esac
}

# What this kernel does for a listener that gets connections of another one.
wakes() { python3 $PAYLOAD/wakes.py; }

# So many connections wait to be accepted on port 443.
queued() {
    [ "$(ss -Hltn 'sport = :443' | awk '{ sum += $2 } END { print sum }')" = "$1" ]
}

has() { command -v "$1" >/dev/null; }

status() { baton status --json | jq -er ".$1"; }

generations() { baton status --json | jq -r '.generations[] | "\(.id) \(.state) \(.pid)"'; }

# Over all generations: a nested counter of the status.
tunnel_is_open() {
    baton status --json | grep -q '"tunnels": *[1-9]'
}

# Its installation succeeds where its workers do not come up: then the program before serves on.
upgraded_to() {
    dpkg -i "$1" && [ "$(active_generation)" -gt "$before" ]
}

active_generation() { generations | awk '$2 == "active" { print $1 }'; }
worker_pid() { generations | awk '$2 == "active" { print $3 }' | grep .; }
main_pid() { systemctl show -p MainPID --value baton; }

another_worker() {
    worker_now=$(worker_pid) && [ "$worker_now" != "$1" ]
}

another_controller() {
    pid_now=$(main_pid) && [ "$pid_now" != 0 ] && [ "$pid_now" != "$1" ] && systemctl is-active --quiet baton
}

# Its own worker serves.
taken_over() {
    worker_now=$(worker_pid) && [ "$(ps -o ppid= -p "$worker_now" | tr -d ' ')" = "$(main_pid)" ]
}

same_controller() {
    [ "$(main_pid)" = "$1" ] || fail "the controller is another process" || return
    [ "$(status pid)" = "$1" ] || fail "systemd and baton name different processes"
}

# Changes the one line of [limits] that asks for another generation.
set_key() {
    sed -i "s/^#\?\[limits\]/[limits]/; s/^#\?$1.*/$2/" /etc/baton/baton.toml
    grep -q "^$2" /etc/baton/baton.toml
}

# A few clients of each kind: more of them would leave an emulated machine no time for what is tested.
load() {
    $PAYLOAD/baton-load 127.0.0.1:443 app.test --roots $CA --fresh 1 --keep-alive 2 --think 1000 --patience 30 > "$LOGS/load-$NAME" 2>&1 &
    LOAD=$!
    # Everybody has been served before anything happens.
    until_ok grep -q '^everybody' "$LOGS/load-$NAME"
}

# Everybody asks once more.
finish_load() {
    kill -TERM $LOAD
    wait $LOAD
    felt=$?
    LOAD=
    return $felt
}

nobody_felt_anything() {
    finish_load
    felt=$?
    SEEN="$(tail -1 "$LOGS/load-$NAME")"
    [ $felt = 0 ]
}

until_ok() {
    until_end=$(($(now_seconds) + LIMIT))
    while ! "$@" >/dev/null 2>&1; do
        [ "$(now_seconds)" -lt $until_end ] || fail "$* did not come" || return
        sleep 0.2
    done
}

# A worker has 10 s to be ready, which an emulated machine does not always give it. Then all is as it was,
# and one tries again.
patiently() {
    tries=1
    until "$@"; do
        [ $tries -lt 3 ] || return
        tries=$((tries + 1))
        TRIED=", at the try number $tries"
    done
}

# A scenario without which no other makes sense.
must() {
    ONLY_NOW=$ONLY
    ONLY=
    scenario "$1" "$1" || leave
    ONLY=$ONLY_NOW
}

scenario() {
    NAME=$1
    wanted "$NAME" || return 0
    SEEN=
    TRIED=
    WHY=
    LOAD=
    scenario_began=$(now)
    date '+%T' > "$LOGS/$NAME"
    "$2" >> "$LOGS/$NAME" 2>&1
    good=$?
    [ -z "$LOAD" ] || finish_load
    if [ $good = 0 ]; then
        say "ok|$(since "$scenario_began")|$NAME|$SEEN$TRIED"
    else
        say "FAILED|$(since "$scenario_began")|$NAME|${WHY:-$(tail -1 "$LOGS/$NAME")} $SEEN"
        say "$(tail -12 "$LOGS/$NAME"; tail -15 "$LOGS/load-$NAME" 2>/dev/null)"
    fi
    return $good
}

wanted() {
    [ -n "$ONLY" ] || return 0
    for word in $ONLY; do
        case "$1" in *"$word"*) return 0 ;; esac
    done
    return 1
}

fail() {
    WHY=$1
    return 1
}

say() { echo "$1" > $RESULTS; }
now() { cut -d' ' -f1 /proc/uptime; }
now_seconds() { cut -d. -f1 /proc/uptime; }
since() { awk -v began="$1" '{ printf "%.1f", $1 - began }' /proc/uptime; }

# Everything that could tell why.
leave() {
    journalctl --no-pager -o short-precise > $LOGS/journal 2>&1
    grep -E ' baton\[| baton\.service' $LOGS/journal > $LOGS/journal-baton
    systemctl --failed > $LOGS/failed-units 2>&1
    baton status > $LOGS/status 2>&1
    docker logs app > $LOGS/app 2>&1
    systemd-analyze blame > $LOGS/boot 2>&1
    tar -C $LOGS -cf /dev/vdd .
    sync
    systemctl poweroff --force --force
    exit 0
}

main
